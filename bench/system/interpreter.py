"""Start Python on a module of this installation, and run no code from the current folder."""

from __future__ import annotations

import codecs
import locale
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The folder from which this package was imported."""
OWN_PACKAGES = ("bench", "methods", "cast", "baselines")
"""Those of this distribution."""


def command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module as a program. -P: the current folder is not searched for modules."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """This process's environment, for such a program and for every Python that it starts in turn. Text is in UTF-8."""
    variables = os.environ | {"PYTHONSAFEPATH": "1", "PYTHONUTF8": "1"}
    if path := _search_path():
        return variables | {"PYTHONPATH": path}
    variables.pop("PYTHONPATH", None)
    return variables


def _search_path() -> str:
    """PYTHONPATH without empty entries, which stand for the current folder, and with a source tree that is not installed."""
    entries = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    if ROOT not in {Path(entry).resolve() for entry in (*entries, *_installed())}:
        entries.append(str(ROOT))
    return os.pathsep.join(entries)


def _installed() -> list[str]:
    """What Python searches by itself: the entries of sys.path from the standard library on."""
    library = str(Path(os.__file__).parent)
    return sys.path[sys.path.index(library) :] if library in sys.path else []


def require_utf8() -> None:
    """Start this program over where the locale is not UTF-8: files are, whoever reads them. The terminal keeps its own."""
    encoding = locale.getencoding()
    if not sys.flags.utf8_mode and codecs.lookup(encoding).name != "utf-8":
        variables = {"PYTHONUTF8": "1", "PYTHONIOENCODING": os.environ.get("PYTHONIOENCODING", encoding)}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | variables)


def forget_current_folder() -> None:
    """Undo that `python -m bench` searches the current folder first, unless this package lies there."""
    if not sys.flags.safe_path and sys.path and Path(sys.path[0] or ".").resolve() == Path.cwd() != ROOT:
        del sys.path[0]
