"""What a number depends on, as sha256."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from bench.system.cache import cache_dir
from bench.system.files import atomic_write


def of(value: Any) -> str:
    """sha256 of canonical JSON: sorted keys, no spaces, no NaN."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    ).hexdigest()


def of_file(path: Path) -> str:
    """sha256 of a file's bytes, remembered by size and modification time: weights are large and rarely change."""
    stat = path.stat()
    memory = cache_dir() / "digests" / f"{of([str(path.resolve()), stat.st_size, stat.st_mtime_ns])[:32]}"
    if memory.exists() and len(known := memory.read_text()) == 64:
        return known
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with contextlib.suppress(OSError), atomic_write(memory) as temporary:  # who cannot write there may read
        temporary.write_text(digest)
    return digest
