"""Compare two results folders as `bench gate` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.comparing import gate_settings
from bench.comparing.result_arguments import read
from bench.comparing.verdict import Row, compare


def verdict(roots: tuple[Path, Path], **over: Any) -> dict[str, Row]:
    """Return the rows by metric or measure."""
    found = compare(*(read(r) for r in roots), gate_settings.read(None, **over))
    return {r.metric: r for r in found.rows}
