"""What a number depends on, as sha256."""

from __future__ import annotations

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
    memory = cache_dir() / "digests" / f"{of([str(path.resolve()), about.st_size, about.st_mtime_ns])[:32]}"
    if memory.exists() and len(known := memory.read_text()) == 64:
        return known
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with atomic_write(memory) as temporary:
        temporary.write_text(digest)
    return digest
