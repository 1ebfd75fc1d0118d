"""Marks, temporary folders and locks that killed runs left behind."""

from __future__ import annotations

from pathlib import Path

from bench.system import cache


def sweep_leftovers(results: Path) -> None:
    """Delete those that no living process holds."""
    cache.sweep_leftovers()
    cache.sweep_locks(results / "locks")
