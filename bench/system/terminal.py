"""Standard output and standard error: nothing that is written there acts on a terminal, but what rich draws."""

from __future__ import annotations

import re
import shutil
import sys
from typing import TYPE_CHECKING, Any, TextIO

from bench.system.text import printable_lines

if TYPE_CHECKING:
    from rich.console import Console

_CURSOR_MOVES = re.compile(r"(?:\n|\r|\x1b\[A)*")
"""All that tqdm, which draws the bars of downloads, writes besides its bars."""


class PrintableStream:
    """A text stream that writes what can be shown, whoever writes: this program, its libraries, or a traceback.

    It has no `buffer`, so that nothing goes around it.
    """

    def __init__(self, stream: TextIO) -> None:
        self.raw = stream

    def write(self, text: str) -> int:
        if _CURSOR_MOVES.fullmatch(text):
            self.raw.write(text)
        else:
            start = "\r" if text.startswith("\r") else ""  # of a bar that is drawn again
            self.raw.write(start + printable_lines(text.removeprefix("\r")))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":
            raise AttributeError(name)
        return getattr(self.raw, name)


def make_output_printable() -> None:
    """From here on, standard output and standard error of this process are printable streams."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, PrintableStream):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # what the terminal's encoding does not have
            setattr(sys, name, PrintableStream(stream))


def raw_stream(stream: TextIO) -> TextIO:
    """The stream itself, for rich, which moves the cursor. All text that it is given must be printable."""
    return stream.raw if isinstance(stream, PrintableStream) else stream


def make_console(stream: TextIO) -> Console:
    """A rich console that does not interpret what it prints.

    stream: sys.stdout or sys.stderr; a file has lines of any length.
    """
    from rich.console import Console

    options: dict[str, Any] = {"markup": False, "highlight": False, "emoji": False, "soft_wrap": True}
    return Console(file=raw_stream(stream), **options)


def width_of(stream: TextIO) -> int | None:
    """Columns of the terminal that a stream is; None where it is none."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def shorten(text: str, width: int) -> str:
    """Text of at most `width` columns, cut in the middle, where an ellipsis says so."""
    from rich.cells import cell_len

    if cell_len(text) <= width:
        return text
    if width < 2:
        return "…"[:width]
    tail = ""
    for c in reversed(text):
        if cell_len(c + tail) > (width - 1) // 2:
            break
        tail = c + tail
    head = ""
    for c in text:
        if cell_len(head + c) > width - 1 - cell_len(tail):
            break
        head += c
    return f"{head}…{tail}"
