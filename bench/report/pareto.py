"""Quality against bytes, and against speed: which rows no other beats in both."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bench.report.view import Column, Table
from bench.results import metrics

LEAST = 3
"""Points, under which there is nothing to draw."""


@dataclass(frozen=True)
class Point:
    row: int
    name: str
    x: float
    y: float
    spread: float
    text: str
    """Both values, as in the table."""
    front: bool
    dense: bool


@dataclass(frozen=True)
class Front:
    """A table's rows that have both numbers."""

    x: Column
    y: Column
    points: tuple[Point, ...]

    @property
    def on(self) -> tuple[Point, ...]:
        return tuple(sorted((p for p in self.points if p.front), key=lambda p: p.x))


def kind(table: Table) -> str | None:
    """The metric by which a table's rows are judged."""
    return next((m for m in metrics.QUALITY if any(c.metric == m for c in table.columns)), None)


def of(table: Table) -> Iterator[Front]:
    """A front for each quality column of the first kind there is, against bytes and against each speed."""
    best = kind(table)
    against = [i for i, c in enumerate(table.columns) if c.metric == metrics.SIZE or c.timing]
    for y, quality in enumerate(table.columns):
        if quality.metric == best:
            for x in against:
                front = _front(table, x, y)
                if len(front.points) >= LEAST:
                    yield front


def _front(table: Table, x: int, y: int) -> Front:
    cells = ((k, row.cells[x], row.cells[y]) for k, row in enumerate(table.rows))
    both = [(k, a, b, a.value, b.value) for k, a, b in cells if a and b and a.value is not None and b.value is not None]
    columns = table.columns[x], table.columns[y]
    places = [(_less(columns[0], u), _less(columns[1], v)) for *_, u, v in both]
    unbeaten = _unbeaten(places)
    points = []
    for (k, a, b, u, v), place in zip(both, places, strict=True):
        row = table.rows[k]
        points.append(
            Point(
                k,
                row.name,
                u,
                v,
                b.spread or 0.0,
                f"{columns[1].name} {b.text}, {columns[0].name} {a.text}",
                place in unbeaten,
                row.about.get("pattern") == "dense",
            )
        )
    return Front(*columns, tuple(points))


def _unbeaten(places: Iterable[tuple[float, float]]) -> set[tuple[float, float]]:
    """Less is better in both: from left to right, those that go lower than all before."""
    out, lowest = set(), math.inf
    for x, y in sorted(set(places)):
        if y < lowest:
            out.add((x, y))
            lowest = y
    return out


def _less(column: Column, value: float) -> float:
    """The value, or its negative where more is better."""
    return -value if column.better == "higher" else value


def told(front: Front) -> str:
    """Who is on the front, in words."""
    names = [p.name for p in front.on]
    return f"On the front, which no other row beats in both: {', '.join(names)}."
