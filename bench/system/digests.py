"""Digests (sha256) of values and files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import stat
from pathlib import Path
from typing import Any

from bench.system.cache import cache_dir
from bench.system.files import atomic_write
from methods.errors import UserError


def of(value: Any) -> str:
    """Return the sha256 of canonical JSON: sorted keys, no spaces, no NaN."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def of_file(path: Path) -> str:
    """Return the sha256 of a file. It is remembered by size and modification time, because weights are large.

    Raises:
        UserError: not a regular file. Reading a pipe would wait for ever.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise UserError(f"{path} is not a regular file: replace it with one")
    if known := remembered(path, about.st_size, about.st_mtime_ns):
        return known
    digest = read(path)
    memory = _memory(path, about.st_size, about.st_mtime_ns)
    with contextlib.suppress(OSError), atomic_write(memory) as temporary:  # the cache may be read-only
        temporary.write_text(digest)
    return digest


def read(path: Path) -> str:
    """Return the sha256 of a file, read from the file itself."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remembered(path: Path, size: int, modified_ns: int) -> str | None:
    """Return the digest that was stored for this size and modification time; None without one."""
    memory = _memory(path, size, modified_ns)
    return known if memory.exists() and len(known := memory.read_text()) == 64 else None


def forget(path: Path) -> None:
    """Forget the digest of a file that may have been changed."""
    with contextlib.suppress(FileNotFoundError):
        about = path.stat()
        _memory(path, about.st_size, about.st_mtime_ns).unlink(missing_ok=True)


def _memory(path: Path, size: int, modified_ns: int) -> Path:
    return cache_dir() / "digests" / f"{of([str(path.resolve()), size, modified_ns])[:32]}"
