"""Start Python on a module of this installation without running code from the current folder."""

from __future__ import annotations

import codecs
import contextlib
import locale
import os
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The folder from which this package was imported."""
OWN_PACKAGES = ("bench", "methods", "cast", "baselines")
"""Top-level packages of this distribution."""
EXIT_S = 5.0
"""Seconds that threads and exit functions of a plug-in have to end."""


def command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module as a program. -P keeps Python from searching the
    current folder."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Return environment variables for such a program and the programs it starts. They choose UTF-8
    for text."""
    variables = os.environ | {"PYTHONSAFEPATH": "1", "PYTHONUTF8": "1"}
    path = _search_path()
    if path:
        return variables | {"PYTHONPATH": path}
    variables.pop("PYTHONPATH", None)
    return variables


def _search_path() -> str:
    """Return PYTHONPATH with the source tree if it is not installed, and without empty entries:
    they mean the current folder."""
    entries = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if ROOT not in {Path(entry).resolve() for entry in (*entries, *_installed())}:
        entries.append(str(ROOT))
    return os.pathsep.join(entries)


def _installed() -> list[str]:
    """Return the entries of sys.path from the standard library on, which Python searches without
    PYTHONPATH."""
    library = str(Path(os.__file__).parent)
    return sys.path[sys.path.index(library) :] if library in sys.path else []


def require_utf8() -> None:
    """Restart in UTF-8 mode if the locale is not UTF-8. Standard streams keep the encoding of the
    terminal."""
    encoding = locale.getencoding()
    if not sys.flags.utf8_mode and codecs.lookup(encoding).name != "utf-8":
        variables = {
            "PYTHONUTF8": "1",
            "PYTHONIOENCODING": os.environ.get("PYTHONIOENCODING", encoding),
        }
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | variables)


def forget_current_folder() -> None:
    """Stop `python -m bench` from searching the current folder first, unless it holds this package.

    Exit with code 2 if the current folder was deleted: no relative path means anything there.
    """
    try:
        here = Path.cwd()
    except FileNotFoundError:
        print("bench: the current folder was deleted: change to another", file=sys.stderr)
        sys.exit(2)
    if not sys.flags.safe_path and sys.path and Path(sys.path[0] or ".").resolve() == here != ROOT:
        del sys.path[0]


def end_within(seconds: float, code: int) -> None:
    """End this process with an exit code in that time at the latest. Call it last."""

    def end() -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(code)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
