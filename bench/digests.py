"""What a number depends on, as sha256."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any

from bench.paths import cache_dir, replacing


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
    with replacing(memory) as temporary:
        temporary.write_text(digest)
    return digest


@cache
def of_source(module: str) -> str:
    """Digest of a module's source and, since every method stands on it, of the package `methods`."""
    files = [_origin(module), *sorted(_origin("methods").parent.glob("*.py"))]
    return of([hashlib.sha256(f.read_bytes()).hexdigest() for f in files])


def _origin(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no module named {module!r}")
    return Path(spec.origin)
