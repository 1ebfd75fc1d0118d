"""The cache: what can be made or fetched again."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bench.system.files import sweep
from methods.errors import UserError

CACHE_ENV = "CAST_BENCH_CACHE"

MADE = ("artifacts", "tmp", "logs", "datasets", "digests", "tokens")

DEAR = ("models", "data", "training", "environments")
"""Gone with `everything` alone: what was fetched or installed, and unfinished trainings that a killed run would go on from."""

SHARED = ("datasets", "digests", "tokens", *DEAR)
"""Parts whose entries no run holds by name: they stay as long as any is at work."""


def info() -> list[dict[str, Any]]:
    """Each part of the cache with its entries and bytes."""
    root = cache_dir()
    out = [{"part": str(root), "entries": None, "bytes": sum(_bytes(root / p) for p in (*MADE, *DEAR))}]
    return out + [{"part": p, "entries": len(_entries(root / p)), "bytes": _bytes(root / p)} for p in (*MADE, *DEAR)]


def gc(*, everything: bool, days: int) -> tuple[int, int]:
    """Delete what was made more than `days` days ago (and, with `everything`, what is dear), but nothing that is in use.

    Returns:
        The bytes freed, and how many entries were left because they are in use.

    Raises:
        UserError: another is at work.
    """
    try:
        with gc_lock().acquire(timeout=60):
            return _collect((*MADE, *DEAR) if everything else MADE, time.time() - days * 86400)
    except Timeout:
        raise UserError("another bench cache gc is at work: wait until it ends") from None


def _collect(parts: tuple[str, ...], before: float) -> tuple[int, int]:
    freed = left = 0
    used = _used()
    for part in () if used else DEAR:
        sweep(cache_dir() / part, ".*")
    for entry in [e for part in parts for e in _entries(cache_dir() / part)]:
        with contextlib.suppress(FileNotFoundError):  # others delete, too
            if entry.stat().st_mtime > before:
                continue
            if entry.stem in used or (used and entry.parent.name in SHARED):
                left += 1
                continue
            size = _bytes(entry)
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            freed += size
    return freed, left


def _used() -> set[str]:
    """Names that living processes use. Marks of the dead go."""
    used = set()
    for mark in _entries(marks()):
        try:
            with FileLock(mark, timeout=0):
                mark.unlink(missing_ok=True)
        except Timeout:
            used.add(mark.name.rpartition("+")[0])
    return used


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file() and not p.is_symlink())


def cache_dir() -> Path:
    """$CAST_BENCH_CACHE, else cast-bench/ under $XDG_CACHE_HOME or ~/.cache."""
    if named := os.environ.get(CACHE_ENV):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cast-bench"


@contextlib.contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A folder in the cache, on the same disk as what will be moved out of it; it goes when the block ends."""
    room = cache_dir() / "tmp" / f"{prefix}{uuid.uuid4().hex}"
    with in_use(room.name):
        room.mkdir(parents=True)
        try:
            yield room
        finally:
            shutil.rmtree(room, ignore_errors=True)


def gc_lock() -> FileLock:
    """Held by `bench cache gc` while it deletes, and by others for the moment in which they say what they use."""
    from filelock import FileLock  # here, so that lists are instant

    cache_dir().mkdir(parents=True, exist_ok=True)
    return FileLock(cache_dir() / "gc.lock")


def marks() -> Path:
    """Files NAME+ID, locked by the processes that use the cache's entries NAME, "" for none. A dead one holds no lock."""
    return cache_dir() / "held"


@contextlib.contextmanager
def in_use(*names: str) -> Iterator[None]:
    """Keep `bench cache gc` away from what all runs share, and from entries of these names, there already or not.

    A name is without its suffix: that of an artifact is its log's, too.
    """
    from filelock import FileLock

    locks = [FileLock(marks() / f"{name}+{uuid.uuid4().hex}") for name in names or ("",)]
    with contextlib.ExitStack() as held:
        with gc_lock():
            marks().mkdir(exist_ok=True)
            for lock in locks:
                held.callback(Path(lock.lock_file).unlink, missing_ok=True)
                held.enter_context(lock)
        yield
