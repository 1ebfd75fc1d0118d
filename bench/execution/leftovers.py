"""What killed runs left behind and nobody holds: marks and temporary folders in the cache, locks of results."""

from __future__ import annotations

from pathlib import Path

from bench.system import cache


def sweep_leftovers(results: Path) -> None:
    """Delete them. What a living process holds stays."""
    cache.sweep_leftovers()
    cache.sweep_locks(results / "locks")
