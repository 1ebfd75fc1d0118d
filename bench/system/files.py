"""Write files and folders whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from methods.errors import UserError


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path`; when the block ends well it is flushed to disk and takes path's place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block ends well, and goes when it does not.

    Raises:
        UserError: `out` is there and not empty, or cannot be made.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {str(out)!r} is there already: name a new folder, or empty it")
    room = out.parent / f".{out.name}.{uuid.uuid4().hex}.tmp"
    try:
        room.mkdir(parents=True)
    except OSError as fault:
        raise UserError(f"--out {str(out)!r} cannot be made ({fault.strerror}): name another folder") from None
    try:
        yield room
        room.rename(out)
    finally:
        shutil.rmtree(room, ignore_errors=True)


def sweep(folder: Path, pattern: str = ".*.tmp") -> None:
    """Delete what killed processes left half written. A day old, it is being written by nobody."""
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - 86400:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def publish(made: Path, target: Path) -> None:
    """Put a finished folder in its place; where another process was faster, its copy stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        made.rename(target)
    except OSError:
        if not target.exists():
            raise
        shutil.rmtree(made)
