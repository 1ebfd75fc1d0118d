"""Error bars inside a column: every row's number on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from bench.report import pareto_chart
from bench.report.view import Table
from bench.results import metrics

WIDTH = 84
EDGE = 5


@dataclass(frozen=True)
class Bars:
    """column: where they stand, -1 for nowhere; at: of each row; told: their scale, in words."""

    column: int
    at: Sequence[Markup]
    told: str = ""


def of(table: Table) -> Bars:
    """For the first quality column of which two numbers have an error."""
    for c, column in enumerate(table.columns):
        cells = [row.cells[c] for row in table.rows]
        known = [(x.value, x.spread or 0.0) for x in cells if x and x.value is not None]
        if column.metric in metrics.QUALITY and sum(bool(spread) for _, spread in known) > 1:
            ends = [end for value, spread in known for end in (value - spread, value + spread)]
            scale = pareto_chart.scale(ends, EDGE, WIDTH - EDGE)
            drawn = [_bar(scale, x.value, x.spread or 0.0) if x and x.value is not None else Markup("") for x in cells]
            return Bars(
                c, drawn, f"Bars: {column.name} and its error, on one {'logarithmic ' if scale.log else ''}scale."
            )
    return Bars(-1, [Markup("")] * len(table.rows))


def _bar(scale: pareto_chart.Scale, value: float, spread: float) -> Markup:
    low, at, high = (scale(v) for v in (value - spread, value, value + spread))
    return Markup(
        '<svg class="bar" aria-hidden="true" viewBox="0 0 {0} 12"><path class="rule" d="M0 6H{0}"/>'
        '<path d="M{1} 6H{3}M{1} 2.5V9.5M{3} 2.5V9.5"/><circle cx="{2}" cy="6" r="2.6"/></svg>'
    ).format(WIDTH, low, at, high)
