"""What a leaderboard shows, before it is a page or a text: sections, tables, rows and cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.report.table import ABSENT, TextTable
from bench.results import metrics


@dataclass(frozen=True)
class Column:
    """One metric under one protocol."""

    metric: str
    protocol: str
    better: str
    unit: str
    named: bool = True
    """Is the protocol part of the metric's name?"""

    @property
    def name(self) -> str:
        return f"{self.label} {self.protocol}" if self.named else self.label

    @property
    def label(self) -> str:
        return metrics.find(self.metric).label

    @property
    def quiet(self) -> bool:
        """Is it left out unless asked for?"""
        return not metrics.find(self.metric).in_tables

    @property
    def ratio(self) -> bool:
        """Are two values compared by their ratio?"""
        return metrics.find(self.metric, self.unit).is_ratio

    @property
    def timing(self) -> bool:
        return metrics.find(self.metric, self.unit).is_time


@dataclass(frozen=True)
class Cell:
    """text: as in every table. value: None where a status stands in its place. made: keys of `Section.made`."""

    text: str
    value: float | None = None
    spread: float | None = None
    failed: bool = False
    reason: str = ""
    made: tuple[str, ...] = ()
    average: bool = False
    """Over tasks: made of several records a seed."""
    command: str = ""
    """That makes its records again; empty if they do not say."""


@dataclass(frozen=True)
class Row:
    """labels: one for each of its table's `told`. about: what a reader filters by; source: of a published number."""

    name: str
    labels: tuple[str, ...]
    about: Mapping[str, str]
    cells: tuple[Cell | None, ...]
    source: str = ""


@dataclass(frozen=True)
class Interval:
    """Row b against row a: ratio or difference, with the interval that covers it at 95%."""

    value: float
    low: float
    high: float
    n: int
    unit: str
    seeds: int
    p: float


@dataclass(frozen=True)
class Table:
    """rank: of each row by column, as a range where it ties; columns without pairs have none.

    intervals: by row a, row b and column, a above b.
    """

    title: str
    told: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    ranks: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    intervals: Mapping[tuple[int, int, int], Interval] = field(default_factory=dict)
    unranked: int = 0
    """Rows of a column that had too many to be paired."""

    @property
    def shown(self) -> tuple[int, ...]:
        return tuple(i for i, c in enumerate(self.columns) if not c.quiet)

    def grid(self) -> TextTable:
        """As text, ranks by the first column that has any."""
        by = min(self.ranks, default=None)
        headers = [*self.told, *([] if by is None else ["rank"]), *(self.columns[i].name for i in self.shown)]
        lines = []
        for k, row in enumerate(self.rows):
            cells = (row.cells[i] for i in self.shown)
            rank = [] if by is None else [self.ranks[by][k]]
            lines.append([*row.labels, *rank, *(ABSENT if c is None else c.text for c in cells)])
        return TextTable(self.title, headers, lines)


@dataclass(frozen=True)
class Section:
    """One results folder, or what others have published.

    about: a sentence; folder: where its records lie; made: how each record came to be, by its name.
    """

    title: str
    about: str
    tables: tuple[Table, ...]
    folder: str = ""
    published: bool = False
    made: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
