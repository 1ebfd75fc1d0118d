"""The cache: a folder of files that a run can make or download again, and marks for those in
use."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bench.system.files import sweep
from methods.contract.errors import UserError
from methods.model.safe_files import CACHE_ENV as CACHE_ENV
from methods.model.safe_files import own_cache

DECIDES_NO_NUMBER = True

NOTICE_S = 2.0
"""Seconds that a process waits for the lock of the cache before it says so."""

REBUILDABLE = (
    "artifacts", "dense-states", "exports", "tmp", "logs", "datasets", "digests", "tokens",
    "native", "cusparselt-plans", "folders", "graphs", "computed",
)  # fmt: skip
"""Parts of the cache that a run makes again without being asked."""

KEY = "[0-9a-f]" * 32
"""Glob of the first digits of a key."""

EXPENSIVE = ("models", "data", "training", "environments")
"""Parts deleted only with `everything`: downloads, installations, and checkpoints of unfinished
trainings."""

cache_dir = own_cache
"""Function that returns the folder of the cache."""

OWN = {*REBUILDABLE, *EXPENSIVE, "held", "locks", "gc.lock", "lost+found"}
"""Names of all entries of a cache, which may be a whole disk."""
KEPT_FREE = 20_000_000_000
"""Bytes of the disk that are left free if older artifacts can be deleted for it."""
DOWNLOAD = ".download"
"""Suffix of the folder of an unfinished download."""

SHARED = (
    "datasets",
    "digests",
    "exports",
    "tokens",
    "native",
    "cusparselt-plans",
    "folders",
    "graphs",
    "computed",
    *EXPENSIVE,
)
"""Parts whose entries are not marked by name. They stay while any run is active."""


def describe_unwritable(fault: OSError) -> str:
    """Return a sentence if this user may not write the cache; "" for any other fault."""
    codes = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ELOOP)
    if fault.errno not in codes or not isinstance(fault.filename, str):
        return ""
    place, root = Path(fault.filename).absolute(), cache_dir().absolute()
    if not (place.is_relative_to(root) or root.is_relative_to(place)):
        return ""
    return (
        f"cache {str(root)!r} cannot be written ({fault.strerror}): name a new folder in "
        f"${CACHE_ENV}"
    )


@contextlib.contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Yield a folder in the cache, and delete it when the block ends.

    It is on the disk of the cache, so a file can be moved out of it by renaming.
    """
    folder = cache_dir() / "tmp" / f"{prefix}{uuid.uuid4().hex}"
    with in_use(folder.name):
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def in_use(*names: str) -> Iterator[None]:
    """Keep `bench cache gc` from deleting what runs share, and entries with these names, before and
    after they exist.

    A name has no suffix: an artifact and its log share one.
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
    """Return the folder of files NAME+ID. A process that uses the entries NAME holds a lock on one
    until it ends."""
    return cache_dir() / "held"


def is_built(name: str) -> bool:
    """Return whether the cache has an artifact, or a stage, with this name."""
    return (cache_dir() / "artifacts" / name / "artifact.json").exists()


def build_lock(name: str) -> FileLock:
    """Return the lock that a worker holds while it makes a stage."""
    folder = cache_dir() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.lock")


def sweep_locks(folder: Path, pattern: str = f"{KEY}.lock") -> None:
    """Delete the files of locks that no process holds. A process that waits for one notices, and
    makes a new file."""
    for path in folder.glob(pattern):
        with contextlib.suppress(Timeout, OSError), FileLock(path, timeout=0):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def gc_lock(timeout: float = -1) -> Iterator[None]:
    """Hold the lock that `bench cache gc` holds while it deletes. Others hold it while they mark
    what they use.

    timeout: seconds to wait after it is said, until Timeout is raised. A negative number has no
    limit.
    """
    cache_dir().mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache_dir() / "gc.lock")
    try:
        lock.acquire(timeout=NOTICE_S)
    except Timeout:
        print(
            f"bench: waiting for another process that holds {lock.lock_file}",
            file=sys.stderr,
            flush=True,
        )
        lock.acquire(timeout=timeout)
    try:
        yield
    finally:
        lock.release()


def info() -> list[dict[str, Any]]:
    """Return a row for the whole cache and one for each part: entries and bytes."""
    root = cache_dir()
    rows: list[dict[str, Any]] = [
        {"part": part, "entries": len(_entries(root / part)), "bytes": count_bytes(root / part)}
        for part in (*REBUILDABLE, *EXPENSIVE)
    ]
    total = {"part": str(root), "entries": None, "bytes": sum(row["bytes"] for row in rows)}
    return [total, *rows]


def require_own_cache() -> None:
    """Raise UserError if the folder of the cache has files that are not of a cache, and may be of
    its user."""
    root = cache_dir()
    names = [entry.name for entry in _entries(root)]
    strange = [name for name in names if name not in OWN and not name.startswith(".")]
    if strange:
        raise UserError(
            f"cache {str(root)!r} has {strange[0]!r}, which is not of a cache: name a new folder "
            f"in ${CACHE_ENV}, for example {str(root / 'cast-bench')!r}"
        )


def gc(*, everything: bool, days: int) -> tuple[int, int]:
    """Delete REBUILDABLE entries older than `days` days (with `everything`, EXPENSIVE ones too)
    that are not in use.

    Return the bytes freed, and the number of entries that stay because they are in use. Raise
    UserError during another gc.
    """
    require_own_cache()
    try:
        with gc_lock(timeout=60):
            parts = (*REBUILDABLE, *EXPENSIVE) if everything else REBUILDABLE
            return _collect(parts, time.time() - days * 86400)
    except Timeout:
        raise UserError("another bench cache gc is running: wait until it ends") from None


def _collect(parts: tuple[str, ...], before: float) -> tuple[int, int]:
    freed = left = 0
    used = _sweep_downloads()
    for entry in [e for part in parts for e in _entries(cache_dir() / part)]:
        with contextlib.suppress(FileNotFoundError):  # another process may delete it
            if entry.stat().st_mtime > before:
                continue
            if entry.stem in used or (used and entry.parent.name in SHARED):
                left += 1
                continue
            freed += _delete(entry)
    return freed, left


def sweep_leftovers(results: Path | None = None) -> None:
    """Delete what killed processes left: marks, temporary folders, and downloads interrupted more
    than a day ago.

    results: a results folder whose locks are swept too.
    """
    require_own_cache()
    for root in filter(None, (cache_dir(), results)):
        sweep_locks(root / "locks")
    with gc_lock():
        used = _sweep_downloads()
        for entry in _entries(cache_dir() / "tmp"):
            if entry.name not in used and re.search("[0-9a-f]{32}$", entry.name):
                with contextlib.suppress(OSError):  # it belongs to another user
                    _delete(entry)


def _sweep_downloads() -> set[str]:
    """Delete downloads interrupted more than a day ago, unless a process is at work. Return the
    names in use."""
    used = _names_in_use()
    if not used:
        for part in EXPENSIVE:
            for suffix in (DOWNLOAD, ".tmp"):
                sweep(cache_dir() / part, f".*{suffix}")
    return used


def evict(part: str, most: int) -> bool:
    """Delete unused entries of a part, the oldest first, until at most `most` bytes are left.
    Return whether that is so."""
    with gc_lock():
        used = _names_in_use()
        total = count_bytes(cache_dir() / part)
        for _, entry in sorted((e.stat().st_mtime, e) for e in _entries(cache_dir() / part)):
            if total > most and entry.stem not in used:
                total -= _delete(entry)
    return total <= most


def make_room(size: float) -> None:
    """Delete unused artifacts, the oldest first, until `size` bytes can be written and the disk has
    KEPT_FREE, or a tenth of it, left."""
    disk = shutil.disk_usage(cache_dir())
    missing = size + min(KEPT_FREE, disk.total // 10) - disk.free
    if missing > 0:
        evict("artifacts", int(count_bytes(cache_dir() / "artifacts") - missing))


def _delete(entry: Path) -> int:
    """Delete an entry and return the bytes freed. A folder is renamed first, so no half of it stays
    in its place."""
    size = count_bytes(entry)
    if entry.is_dir():
        gone = cache_dir() / "tmp" / f"gc{uuid.uuid4().hex}"
        gone.parent.mkdir(exist_ok=True)
        shutil.rmtree(entry.rename(gone))
    else:
        entry.unlink()
    return size


def _names_in_use() -> set[str]:
    """Return the names that running processes use, and delete the marks of others."""
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
    """Return the size of a file, or of all files in a folder except links, in bytes."""
    if path.is_file():
        return path.stat().st_size
    size = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # another process may delete it
                about = os.lstat(os.path.join(folder, name))
                if stat.S_ISREG(about.st_mode):
                    size += about.st_size
    return size
