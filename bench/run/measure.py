"""Read measures off a built artifact."""

from __future__ import annotations

import math

from bench.measures.contract import Readings
from bench.results.record import Reading, ReadingRow


def rows_of(readings: Readings) -> list[ReadingRow]:
    """As a record keeps them: what is not finite is no value."""
    return [_row(r) for r in readings.values]


def _row(r: Reading) -> ReadingRow:
    stderr = r.stderr if r.stderr is not None and math.isfinite(r.stderr) else None
    return ReadingRow(
        metric=r.metric,
        value=r.value if math.isfinite(r.value) else None,
        unit=r.unit,
        better=r.better,
        stderr=stderr,
        n=r.n,
    )
