"""The cache: what can be made or fetched again."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from bench.paths import cache_dir, collector, marks, sweep
from methods.errors import UserError

if TYPE_CHECKING:
    from bench.cells import Artifact

MADE = ("artifacts", "tmp", "logs", "datasets", "digests", "tokens")
DEAR = ("models", "data", "training", "environments")
"""Gone with `everything` alone: what was fetched or installed, and unfinished trainings that a killed run would go on from."""
SHARED = ("datasets", "digests", "tokens", *DEAR)
"""Parts whose entries no run holds by name: they stay as long as any is at work."""


def names(artifact: Artifact) -> list[str]:
    """What entries of an artifact are called, and of each stage before its last."""
    return [artifact.up_to(count + 1).key[:32] for count in range(len(artifact.stages))]


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
        with collector().acquire(timeout=60):
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
