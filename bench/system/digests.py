"""What a number depends on, as sha256."""

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
    """sha256 of canonical JSON: sorted keys, no spaces, no NaN."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    ).hexdigest()


def of_file(path: Path) -> str:
    """sha256 of a file's bytes, remembered by size and modification time: weights are large and rarely change.

    Raises:
        UserError: a pipe, for example, which would be waited for.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise UserError(f"{path} is not a regular file: replace it by one")
    if known := remembered(path, about.st_size, about.st_mtime_ns):
        return known
    digest = read(path)
    memory = _memory(path, about.st_size, about.st_mtime_ns)
    with contextlib.suppress(OSError), atomic_write(memory) as temporary:  # who cannot write there may read
        temporary.write_text(digest)
    return digest


def read(path: Path) -> str:
    """The same, from the file itself."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remembered(path: Path, size: int, modified_ns: int) -> str | None:
    """The digest that a file had when it had this size and modification time; None where it was not taken."""
    memory = _memory(path, size, modified_ns)
    return known if memory.exists() and len(known := memory.read_text()) == 64 else None


def forget(path: Path) -> None:
    """Let a file that may have been tampered with be digested again."""
    with contextlib.suppress(FileNotFoundError):
        about = path.stat()
        _memory(path, about.st_size, about.st_mtime_ns).unlink(missing_ok=True)


def _memory(path: Path, size: int, modified_ns: int) -> Path:
    return cache_dir() / "digests" / f"{of([str(path.resolve()), size, modified_ns])[:32]}"
