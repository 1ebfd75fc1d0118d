"""The cache: what can be made or fetched again."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bench.paths import cache_dir

MADE = ("artifacts", "tmp", "logs", "datasets", "digests")
FETCHED = ("models", "data")


def info() -> list[dict[str, Any]]:
    """Each part of the cache with its entries and bytes."""
    root = cache_dir()
    out = [{"part": str(root), "entries": None, "bytes": sum(_bytes(root / p) for p in (*MADE, *FETCHED))}]
    return out + [{"part": p, "entries": len(_entries(root / p)), "bytes": _bytes(root / p)} for p in (*MADE, *FETCHED)]


def gc(*, everything: bool, days: int) -> int:
    """Delete what was made more than `days` days ago (and, with `everything`, fetched); returns the bytes freed."""
    freed = 0
    limit = time.time() - days * 86400
    with _alone():
        for part in (*MADE, *FETCHED) if everything else MADE:
            for entry in _entries(cache_dir() / part):
                if entry.stat().st_mtime <= limit:
                    freed += _bytes(entry)
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
    return freed


def _alone() -> FileLock:
    """One collector at a time."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    lock = FileLock(cache_dir() / "gc.lock", timeout=60)
    try:
        lock.acquire()
        lock.release()
    except Timeout:
        raise RuntimeError("another bench cache gc is at work") from None
    return lock


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file() and not p.is_symlink())
