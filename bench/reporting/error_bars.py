"""Error bars inside a column of the page: each row's number on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from bench.reporting.scale import AxisScale, make_scale
from bench.reporting.view import Table
from bench.results import metrics

WIDTH = 84
EDGE = 5


@dataclass(frozen=True)
class ErrorBars:
    """column: where the bars are, -1 if nowhere; bars: one SVG for each row, empty without a number."""

    column: int
    bars: Sequence[Markup]
    caption: str = ""


def draw(table: Table) -> ErrorBars:
    """Bars for the first quality column in which two numbers have an error."""
    for c, column in enumerate(table.columns):
        cells = [row.cells[c] for row in table.rows]
        numbers = [(x.value, x.spread or 0.0) for x in cells if x and x.value is not None]
        if column.metric in metrics.QUALITY and sum(bool(spread) for _, spread in numbers) > 1:
            ends = [end for value, spread in numbers for end in (value - spread, value + spread)]
            scale = make_scale(ends, EDGE, WIDTH - EDGE)
            bars = [_bar(scale, x.value, x.spread or 0.0) if x and x.value is not None else Markup("") for x in cells]
            kind = "log scale" if scale.log else "scale"
            return ErrorBars(c, bars, f"Bars: {column.name} with its error, all on one {kind}.")
    return ErrorBars(-1, [Markup("")] * len(table.rows))


def _bar(scale: AxisScale, value: float, spread: float) -> Markup:
    low, middle, high = (scale(v) for v in (value - spread, value, value + spread))
    return Markup(
        '<svg class="bar" aria-hidden="true" viewBox="0 0 {0} 12"><path class="rule" d="M0 6H{0}"/>'
        '<path d="M{1} 6H{3}M{1} 2.5V9.5M{3} 2.5V9.5"/><circle cx="{2}" cy="6" r="2.6"/></svg>'
    ).format(WIDTH, low, middle, high)
