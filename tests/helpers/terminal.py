"""A terminal for commands that run in this process."""

import re
import sys

from bench.system.text import printable

STYLES = re.compile("\x1b\\[[0-9;]*m")


def open_terminal(monkeypatch, width, colors=False):
    """From here on, standard output and standard error are a terminal that is so wide."""
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", "40")
    monkeypatch.setenv("TERM", "xterm-256color" if colors else "dumb")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)


def obeyed(text):
    """What a terminal would act on, but for new lines."""
    return [
        c
        for line in text.split("\n")
        for c, shown in zip(line, printable(line), strict=True)
        if c != shown
    ]
