"""Where things are kept between runs, and how a file is written so that no reader ever sees half of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from methods.errors import UserError

if TYPE_CHECKING:
    from filelock import FileLock

CACHE_ENV = "CAST_BENCH_CACHE"


def cache_dir() -> Path:
    """$CAST_BENCH_CACHE, else cast-bench/ under $XDG_CACHE_HOME or ~/.cache."""
    if named := os.environ.get(CACHE_ENV):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cast-bench"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
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
def whole(out: Path) -> Iterator[Path]:
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


@contextlib.contextmanager
def scratch(prefix: str) -> Iterator[str]:
    """A folder in the cache, on the same disk as what will be moved out of it; it goes when the block ends."""
    room = cache_dir() / "tmp" / f"{prefix}{uuid.uuid4().hex}"
    with using(room.name):
        room.mkdir(parents=True)
        try:
            yield str(room)
        finally:
            shutil.rmtree(room, ignore_errors=True)


def collector() -> FileLock:
    """Held by `bench cache gc` while it deletes, and by others for the moment in which they say what they use."""
    from filelock import FileLock  # here, so that lists are instant

    cache_dir().mkdir(parents=True, exist_ok=True)
    return FileLock(cache_dir() / "gc.lock")


def marks() -> Path:
    """Files NAME+ID, locked by the processes that use the cache's entries NAME, "" for none. A dead one holds no lock."""
    return cache_dir() / "held"


@contextlib.contextmanager
def using(*names: str) -> Iterator[None]:
    """Keep `bench cache gc` away from what all runs share, and from entries of these names, there already or not.

    A name is without its suffix: that of an artifact is its log's, too.
    """
    from filelock import FileLock

    locks = [FileLock(marks() / f"{name}+{uuid.uuid4().hex}") for name in names or ("",)]
    with contextlib.ExitStack() as held:
        with collector():
            marks().mkdir(exist_ok=True)
            for lock in locks:
                held.callback(Path(lock.lock_file).unlink, missing_ok=True)
                held.enter_context(lock)
        yield


def publish(made: Path, target: Path) -> None:
    """Put a finished folder in its place; where another process was faster, its copy stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        made.rename(target)
    except OSError:
        if not target.exists():
            raise
        shutil.rmtree(made)
