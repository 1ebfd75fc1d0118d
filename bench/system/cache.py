"""The cache: a folder of what can be made or fetched again, and which of it is in use."""

from __future__ import annotations

import contextlib
import errno
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bench.system.files import sweep
from methods.errors import UserError
from methods.files import CACHE_ENV as CACHE_ENV
from methods.files import own_cache

REBUILDABLE = (
    "artifacts", "dense-states", "exports", "tmp", "logs", "datasets", "digests", "tokens", "native", "cusparselt-plans",
)  # fmt: skip
"""Parts of the cache that a run makes again by itself."""

EXPENSIVE = ("models", "data", "training", "environments")
"""Parts deleted only with `everything`: downloads, installations, and checkpoints of unfinished trainings."""

SHARED = ("datasets", "digests", "exports", "tokens", "native", "cusparselt-plans", *EXPENSIVE)
"""Parts whose entries are not marked by name: they stay as long as any run is at work."""


def cache_dir() -> Path:
    """$CAST_BENCH_CACHE, else cast-bench/ under $XDG_CACHE_HOME or ~/.cache."""
    return own_cache()


def describe_unwritable(fault: OSError) -> str:
    """A sentence, if the fault is that this user may not write the cache; "" for any other."""
    if fault.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR) or not isinstance(
        fault.filename, str
    ):
        return ""
    place, root = Path(fault.filename).absolute(), cache_dir().absolute()
    if not (place.is_relative_to(root) or root.is_relative_to(place)):
        return ""
    return f"cache {str(root)!r} cannot be written ({fault.strerror}): name a folder of yours in ${CACHE_ENV}"


@contextlib.contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """A folder in the cache, on the same disk as what will be moved out of it; it goes when the block ends."""
    folder = cache_dir() / "tmp" / f"{prefix}{uuid.uuid4().hex}"
    with in_use(folder.name):
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def in_use(*names: str) -> Iterator[None]:
    """Keep `bench cache gc` from deleting what all runs share, and entries of these names, whether they exist yet or not.

    A name is without its suffix: an artifact and its log have the same.
    """
    locks = [FileLock(marks_dir() / f"{name}+{uuid.uuid4().hex}") for name in names or ("",)]
    with contextlib.ExitStack() as stack:
        with gc_lock():
            marks_dir().mkdir(exist_ok=True)
            for lock in locks:
                stack.callback(Path(lock.lock_file).unlink, missing_ok=True)
                stack.enter_context(lock)
        yield


def marks_dir() -> Path:
    """Files NAME+ID, each locked by a process that uses the entries NAME ("" for none). A dead process holds no lock."""
    return cache_dir() / "held"


def is_built(name: str) -> bool:
    """Whether the cache has the artifact, or the stage of one, with this name."""
    return (cache_dir() / "artifacts" / name / "artifact.json").exists()


def build_lock(name: str) -> FileLock:
    """Held by the worker that makes a stage."""
    folder = cache_dir() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.lock")


def sweep_locks(folder: Path) -> None:
    """Delete the files of locks that nobody holds. Who waits for one sees that its file is gone, and takes a new one."""
    for path in folder.glob("*.lock"):
        with contextlib.suppress(Timeout, OSError), FileLock(path, timeout=0):
            path.unlink(missing_ok=True)


def gc_lock() -> FileLock:
    """Held by `bench cache gc` while it deletes, and by others for the moment in which they mark what they use."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    return FileLock(cache_dir() / "gc.lock")


def info() -> list[dict[str, Any]]:
    """The whole cache and then each part, with its entries and bytes."""
    root, parts = cache_dir(), (*REBUILDABLE, *EXPENSIVE)
    total = {"part": str(root), "entries": None, "bytes": sum(count_bytes(root / part) for part in parts)}
    return [total, *({"part": p, "entries": len(_entries(root / p)), "bytes": count_bytes(root / p)} for p in parts)]


def gc(*, everything: bool, days: int) -> tuple[int, int]:
    """Delete REBUILDABLE entries older than `days` days (with `everything`, EXPENSIVE ones too) that are not in use.

    Returns:
        The bytes freed, and how many entries were left because they are in use.

    Raises:
        UserError: another garbage collection is running.
    """
    try:
        with gc_lock().acquire(timeout=60):
            return _collect((*REBUILDABLE, *EXPENSIVE) if everything else REBUILDABLE, time.time() - days * 86400)
    except Timeout:
        raise UserError("another bench cache gc is running: wait until it ends") from None


def _collect(parts: tuple[str, ...], before: float) -> tuple[int, int]:
    freed = left = 0
    used = _names_in_use()
    for part in () if used else EXPENSIVE:
        sweep(cache_dir() / part, ".*")
    for entry in [e for part in parts for e in _entries(cache_dir() / part)]:
        with contextlib.suppress(FileNotFoundError):  # others delete, too
            if entry.stat().st_mtime > before:
                continue
            if entry.stem in used or (used and entry.parent.name in SHARED):
                left += 1
                continue
            freed += _delete(entry)
    return freed, left


def sweep_leftovers() -> None:
    """Delete what killed processes left: marks, temporary folders, and fetches that broke off more than a day ago."""
    sweep_locks(cache_dir() / "locks")
    with gc_lock():
        used = _names_in_use()
        for part in () if used else EXPENSIVE:
            sweep(cache_dir() / part, ".*")
        for entry in _entries(cache_dir() / "tmp"):
            if entry.name not in used:
                with contextlib.suppress(OSError):  # another user's
                    _delete(entry)


def evict(part: str, most: int) -> bool:
    """Delete a part's entries that are not in use, the oldest first, until it takes at most `most` bytes.

    Returns:
        Whether it does.
    """
    with gc_lock():
        used = _names_in_use()
        total = count_bytes(cache_dir() / part)
        for _, entry in sorted((e.stat().st_mtime, e) for e in _entries(cache_dir() / part)):
            if total > most and entry.stem not in used:
                total -= _delete(entry)
    return total <= most


def _delete(entry: Path) -> int:
    """Returns the bytes freed. A folder leaves its place at once: a deletion that breaks off leaves no half of it there."""
    size = count_bytes(entry)
    if entry.is_dir():
        gone = cache_dir() / "tmp" / f"gc{uuid.uuid4().hex}"
        gone.parent.mkdir(exist_ok=True)
        shutil.rmtree(entry.rename(gone))
    else:
        entry.unlink()
    return size


def _names_in_use() -> set[str]:
    """Names that living processes use. Marks of dead processes are deleted."""
    used = set()
    for mark in _entries(marks_dir()):
        try:
            with FileLock(mark, timeout=0):
                mark.unlink(missing_ok=True)
        except Timeout:
            used.add(mark.name.rpartition("+")[0])
    return used


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def count_bytes(path: Path) -> int:
    """Of a file, or of all files in a folder but its links."""
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file() and not p.is_symlink())
