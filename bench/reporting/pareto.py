"""Quality against size, and against speed: the Pareto front, the rows that no other row beats in
both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bench.reporting.view import Table, TableColumn
from bench.results import metrics

BITS = "bits_per_weight"
MIN_POINTS = 3
"""Fewest points of a figure."""


@dataclass(frozen=True)
class FrontPoint:
    name: str
    x: float
    y: float
    spread: float
    text: str
    """Both values, with the text of the table."""
    on_front: bool
    dense: bool


@dataclass(frozen=True)
class Front:
    """The rows of a table that have both numbers."""

    x: TableColumn
    y: TableColumn
    points: tuple[FrontPoint, ...]

    @property
    def optimal(self) -> tuple[FrontPoint, ...]:
        return tuple(sorted((p for p in self.points if p.on_front), key=lambda p: p.x))


def quality_metric(table: Table) -> str | None:
    """Return the metric that a table's rows are judged by."""
    return next(iter(metrics.by_quality(c.metric for c in table.columns)), None)


def fronts(table: Table) -> Iterator[Front]:
    """Yield a front for each column of the quality metric, against the bytes of the whole model and
    against each measured speed.

    Bits per weight take the place of bytes if these are missing. Of a leaderboard, only the columns
    that are shown count. A shown column of bits per byte is drawn against bytes, too.
    """
    quality = quality_metric(table)
    sizes = (metrics.SIZE, BITS)
    size = next((metric for metric in sizes if table.column(metric) is not None), None)
    speeds = [c for c in table.columns if c.shown is not False and c.definition.is_time]
    costs = [i for i, c in enumerate(table.columns) if c.metric == size or c in speeds]
    packed = [i for i, c in enumerate(table.columns) if c.metric == metrics.SIZE]
    for y, column in enumerate(table.columns):
        against: list[int] = []
        if column.metric == quality and column.shown is not False:
            against = costs
        elif column.metric == metrics.MEAN_BITS and column.shown:
            against = packed
        for x in against:
            front = _front(table, x, y)
            if len(front.points) >= MIN_POINTS:
                yield front


def _front(table: Table, x: int, y: int) -> Front:
    whole = (table.rows[k] for k in table.whole_rows)
    cells = ((row, row.cells[x], row.cells[y]) for row in whole if not row.is_broken)
    both = [
        (r, a, b, a.value, b.value)
        for r, a, b in cells
        if a and b and a.value is not None and b.value is not None
    ]
    columns = table.columns[x], table.columns[y]
    places = [(columns[0].sign * u, columns[1].sign * v) for *_, u, v in both]
    optimal = pareto_optimal(places)
    points = []
    for (row, a, b, u, v), place in zip(both, places, strict=True):
        text = f"{columns[1].name} {b.text}, {columns[0].name} {a.text}"
        is_dense = row.filters.get("pattern") == "dense"
        points.append(FrontPoint(row.name, u, v, b.spread or 0.0, text, place in optimal, is_dense))
    return Front(*columns, tuple(points))


def pareto_optimal(places: Iterable[tuple[float, float]]) -> set[tuple[float, float]]:
    """Return the places that no other place beats. Lower is better in both numbers."""
    out, lowest = set(), math.inf
    for x, y in sorted(set(places)):
        if y < lowest:
            out.add((x, y))
            lowest = y
    return out


def describe(front: Front) -> str:
    """Name the rows on the front in a sentence."""
    return (
        "Pareto front (no other row is better in both): "
        f"{', '.join(p.name for p in front.optimal)}."
    )
