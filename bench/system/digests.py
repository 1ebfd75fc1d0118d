"""Digests (sha256) of values and files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from bench.system.cache import cache_dir
from bench.system.files import write_file
from methods.contract.errors import UserError

DECIDES_NO_NUMBER = True

FileState = tuple[int, int, int, int]
"""Size, times of modification and change, and inode of a file. A program can set the modification
time only."""

CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)
"""Writer of canonical JSON."""


def of(value: Any) -> str:
    """Return the sha256 of canonical JSON: sorted keys, no spaces, no NaN."""
    return hashlib.sha256(CANONICAL.encode(value).encode()).hexdigest()


def of_file(path: Path) -> str:
    """Return the sha256 of a regular file: a pipe would block. The cache remembers it, because
    weights are large."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise UserError(f"{path} is not a regular file: replace it with one")
    known = remembered(path, state_of(about))
    if known:
        return known
    digest = read(path)
    memory = _memory(path, state_of(about))
    with contextlib.suppress(OSError):  # the cache may be read-only
        write_file(memory, digest)
    return digest


def read(path: Path) -> str:
    """Return the sha256 of a file, read from the file itself."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def state_of(about: os.stat_result) -> FileState:
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino


def remembered(path: Path, state: FileState) -> str | None:
    """Return the digest that was stored for this state; None without one."""
    memory = _memory(path, state)
    if not memory.exists():
        return None
    known = memory.read_text()
    return known if len(known) == 64 else None


def forget(path: Path) -> None:
    """Forget the digest of a file that may have been changed."""
    with contextlib.suppress(FileNotFoundError):
        _memory(path, state_of(path.stat())).unlink(missing_ok=True)


def _memory(path: Path, state: FileState) -> Path:
    return cache_dir() / "digests" / f"{of([str(path.resolve()), *state])[:32]}"
