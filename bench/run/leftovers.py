"""What killed runs left behind and nobody holds: marks and temporary folders in the cache, locks of results."""

from __future__ import annotations

import contextlib
from pathlib import Path

from filelock import FileLock, Timeout

from bench.system import cache


def sweep_leftovers(results: Path) -> None:
    """Delete them. What a living process holds stays."""
    cache.sweep_leftovers()
    for path in (results / "locks").glob("*.lock"):
        # whoever waits for it sees that its file is gone, and takes a new one
        with contextlib.suppress(Timeout, OSError), FileLock(path, timeout=0):
            path.unlink(missing_ok=True)
