"""Compare two results folders as `bench gate` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.comparing import gate_settings
from bench.comparing.result_arguments import read
from bench.comparing.verdict import Row, compare


def verdict(roots: tuple[Path, Path], by: str = "metric", **over: Any) -> dict[str, Row]:
    """Return the rows by metric or measure, or by another field."""
    found = compare(*(read(r) for r in roots), gate_settings.read(None, **over))
    return {getattr(r, by): r for r in found.rows}
