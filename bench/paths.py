"""Where things are kept between runs, and how a file is written so that no reader ever sees half of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

CACHE_ENV = "CAST_BENCH_CACHE"


def cache_dir() -> Path:
    """$CAST_BENCH_CACHE, else cast-bench/ under $XDG_CACHE_HOME or ~/.cache."""
    if named := os.environ.get(CACHE_ENV):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cast-bench"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside `path`; when the block ends well it is flushed to disk and takes path's place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def scratch(prefix: str) -> tempfile.TemporaryDirectory[str]:
    """A folder in the cache, on the same disk as what will be moved out of it."""
    root = cache_dir() / "tmp"
    root.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=root, prefix=prefix)


def publish(made: Path, target: Path) -> None:
    """Put a finished folder in its place; where another process was faster, its copy stays."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        made.rename(target)
    except OSError:
        if not target.exists():
            raise
        shutil.rmtree(made)
