"""What a number depends on, as sha256."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterator
from functools import cache
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
    with atomic_write(memory) as temporary:
        temporary.write_text(digest)
    return digest


DECISIVE = (
    "bench.kernels.cusparselt",
    "bench.measures.forward",
    "bench.kernels.cpu24",
    "bench.kernels.linear24",
    "bench.inputs.lmeval",
    "bench.measures",
    "bench.kernels.native",
    "bench.quantizers",
    "bench.measures.speed",
)
"""Of bench, what decides a number rather than carries it about."""


@cache
def of_source(module: str) -> str:
    """Digest of the code behind a name: its module, and what that imports of `methods` and of its own package.

    A measure or quantizer stands on all of bench; what reads models and what its like share stand for that.
    """
    own = module.partition(".")[0]
    followed = ("methods", *DECISIVE) if own == "bench" else ("methods", own)
    seen: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen or (file := _origin(name)) is None:
            continue
        text = file.read_bytes()
        seen[name] = hashlib.sha256(text).hexdigest()
        waiting += _imported(text, followed)
    if module not in seen:
        raise ModuleNotFoundError(f"no module named {module!r}")
    return of(seen)


def _imported(source: bytes, followed: tuple[str, ...]) -> Iterator[str]:
    """Names at or under these that may be modules: of `from a import b` both a and a.b. No other is looked at."""
    roots = {name.partition(".")[0] for name in followed}
    for node in ast.walk(ast.parse(source)):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in roots:
            found = [node.module]
            if _is_package(node.module):
                found += [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name for name in found if any(f"{name}.".startswith(f"{f}.") for f in followed))


def _is_package(module: str) -> bool:
    """Asked so that no module is imported only to learn that a name in it is none."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return False
    return bool(spec and spec.submodule_search_locations)


def _origin(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec and spec.origin else None
