"""The content of a leaderboard, before it is HTML or text: sections, tables, rows and cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from bench.reporting.facts import Facts, Interval, RowNumbers
from bench.reporting.table import ABSENT, NO_TASKS, TextTable, caption
from bench.results import metrics
from methods.contract.measure_info import Metric

SEED_NOISE_NOTE = (
    "Intervals of rows with few seeds, and ranks, include the noise between seeds. Its standard "
    "deviation for a row:"
)


@dataclass(frozen=True)
class DerivedColumn:
    """A column that is computed from other numbers of a row."""

    name: str
    cell: Callable[[RowNumbers], TableCell | None]
    """Returns the cell of a row: its text, and the value that rows are sorted by."""
    after: str = ""
    """Measure whose metrics it follows. Empty: it is at the end."""
    better: Literal["lower", "higher", ""] = "lower"
    """Better direction of the values, or "" if neither is better."""
    unit: str = ""
    """Unit of the values, if the page needs it to format a difference."""
    names_text: bool = False
    """True if the evaluation text is part of its name."""
    words: bool = False
    """True if its cells are words, not numbers."""

    def on(self, text: str, shown: bool | None = None) -> TableColumn:
        """Return the column for a table. text: what the table's rows were evaluated on."""
        protocol = text if self.names_text else ""
        return TableColumn(
            self.name,
            protocol,
            self.better,
            self.unit,
            names_protocol=self.names_text,
            shown=shown,
            derived=self,
        )


@dataclass(frozen=True)
class TableColumn:
    """One metric under one protocol."""

    metric: str
    protocol: str
    better: str
    unit: str
    names_protocol: bool = True
    """True if the protocol is part of the column's name."""
    shown: bool | None = None
    """True if a table shows the column at first. None: as its metric says."""
    about: str = ""
    """Text in brackets after the name, on what the numbers stand beside."""
    derived: DerivedColumn | None = None
    """Column of the catalog. None for a metric."""

    @property
    def name(self) -> str:
        if self.names_protocol:
            return f"{self.label} {self.protocol}"
        return self.label

    @property
    def head(self) -> str:
        if self.about:
            return f"{self.name} ({self.about})"
        return self.name

    @property
    def sign(self) -> int:
        """Return the factor that puts the best value first in a sort: -1 if higher is better."""
        return -1 if self.better == "higher" else 1

    @property
    def label(self) -> str:
        """Return the metric's name for readers."""
        return self.definition.label

    @property
    def definition(self) -> Metric:
        if self.derived:
            return Metric(self.metric)
        return metrics.find(self.metric, self.unit)

    @property
    def hidden(self) -> bool:
        """Return whether a table leaves the column out until a reader asks for it."""
        if self.shown is None:
            return not self.definition.in_tables
        return not self.shown


@dataclass(frozen=True)
class TableCell:
    """One cell.

    text: as in every table; value: None if the cell shows a status; records: keys of
    `ReportSection.records`.
    """

    text: str
    value: float | None = None
    spread: float | None = None
    reason: str = ""
    records: tuple[str, ...] = ()
    average: bool = False
    """True if the cell is a mean over tasks, from several records for each seed."""
    command: str = ""
    """Command that makes the records again. Empty if the records do not say how."""


def is_quantized(labels: Mapping[str, str]) -> bool:
    """Return whether a row's labels name a quantizer."""
    return labels["quantizer"] not in ("", "none")


@dataclass(frozen=True)
class TableRow:
    """One row.

    labels: one for each of its table's `label_names`; filters: what a reader can filter by; source:
    of a published number.
    part_of: the row of which this is one seed, or the same with a smaller budget.
    """

    name: str
    labels: tuple[str, ...]
    filters: Mapping[str, str]
    cells: tuple[TableCell | None, ...]
    source: str = ""
    part_of: int | None = None
    facts: Facts | None = None

    @property
    def is_broken(self) -> bool:
        """Return whether the weights break the pattern of the row."""
        return bool(self.facts and self.facts.broken)

    @property
    def is_quantized(self) -> bool:
        return is_quantized(self.filters)


@dataclass(frozen=True)
class Table:
    """One model's rows.

    protocol: what all of them share, if the title does not say it.
    ranks: of each row, by column; tied rows have a range. Columns without pairs have none.
    intervals: by row a, row b and column, with a above b.
    """

    title: str
    label_names: tuple[str, ...]
    columns: tuple[TableColumn, ...]
    rows: tuple[TableRow, ...]
    ranks: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    intervals: Mapping[tuple[int, int, int], Interval] = field(default_factory=dict)
    unranked: int = 0
    """Number of rows of the longest column that has too many to compare in pairs; 0 without one."""
    protocol: str = ""
    remarks: tuple[str, ...] = ()
    """Notes that do not follow from the columns and intervals."""

    @property
    def ranked_by(self) -> int | None:
        """Return the column whose ranks a table shows at first: the first quality column that has
        ranks.

        A table that has quality columns is never ranked by another one, for example by bits per
        weight, because readers would take the rank for one of quality.
        """
        quality = {
            c: one.definition.quality
            for c, one in enumerate(self.columns)
            if one.definition.quality and not one.hidden
        }
        if not quality:
            return min(self.ranks, default=None)
        ranked = [c for c in quality if c in self.ranks]
        return min(ranked, key=lambda c: quality[c], default=None)

    @property
    def whole_rows(self) -> list[int]:
        """Return the rows that are no part of another row."""
        return [k for k, row in enumerate(self.rows) if row.part_of is None]

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Return what readers must know of the numbers that the table shows."""
        sources: dict[str, dict[str, None]] = {}
        for (_, _, c), interval in self.intervals.items():
            if interval.seed_noise and not self.columns[c].hidden:
                sources.setdefault(self.columns[c].label, {}).update(
                    dict.fromkeys(interval.seed_noise.split("; "))
                )
        notes = list(self.remarks)
        if self.unranked:
            notes.append(
                f"{self.unranked:,} rows are too many to compare in pairs: the best of a column "
                "are. The others have no ranks, and no intervals but those to the dense model."
            )
        if sources:
            noises = (f"{label}: {', '.join(sorted(of))}" for label, of in sources.items())
            notes.append(f"{SEED_NOISE_NOTE} {'; '.join(noises)}.")
        return tuple(notes)

    def column(self, metric: str) -> int | None:
        """Return the first column of a metric."""
        return next((i for i, c in enumerate(self.columns) if c.metric == metric), None)

    def with_first(self, columns: Sequence[int]) -> Table:
        """Return the table with these columns before the others."""
        order = [*columns, *(c for c in range(len(self.columns)) if c not in columns)]
        place = {c: at for at, c in enumerate(order)}
        rows = []
        for row in self.rows:
            rows.append(replace(row, cells=tuple(row.cells[c] for c in order)))
        return replace(
            self,
            columns=tuple(self.columns[c] for c in order),
            rows=tuple(rows),
            ranks={place[c]: ranks for c, ranks in self.ranks.items()},
            intervals={
                (a, b, place[c]): interval for (a, b, c), interval in self.intervals.items()
            },
        )

    def facts(self, row: int) -> Facts:
        """Return the facts of a row that has some."""
        facts = self.rows[row].facts
        assert facts is not None
        return facts

    def value(self, row: int | None, column: int | None) -> float | None:
        if row is None or column is None:
            return None
        cell = self.rows[row].cells[column]
        return cell.value if cell else None

    def to_text_tables(self) -> list[TextTable]:
        """Return the table as text. If some rows have a mean over tasks, those without are in a
        second table.

        The notes are those of the last.
        """
        mean = next(
            (i for i, c in enumerate(self.columns) if c.metric == "mean_acc" and not c.hidden), None
        )
        with_tasks = [k for k in self.whole_rows if mean is None or self.rows[k].cells[mean]]
        others = sorted(set(self.whole_rows).difference(with_tasks))
        if not with_tasks or not others:
            return [self.to_text_table(self.whole_rows)]
        first, second = self.to_text_table(with_tasks), self.to_text_table(others)
        return [replace(first, notes=()), replace(second, title=f"{second.title}{NO_TASKS}")]

    def to_text_table(self, rows: Sequence[int] | None = None) -> TextTable:
        """Return the table as text, with the ranks of `ranked_by`, and without parts of rows.

        rows: the rows to show, and only the columns that they have. By default all.
        """
        by = self.ranked_by
        visible = [i for i, c in enumerate(self.columns) if not c.hidden]
        if rows is None:
            rows = self.whole_rows
        else:
            used = {i for k in rows for i, cell in enumerate(self.rows[k].cells) if cell}
            visible = [i for i in visible if i in used]
        headers = list(self.label_names)
        if by is not None:
            headers.append("rank")
        headers += [self.columns[i].head for i in visible]
        lines = []
        for k in rows:
            line = list(self.rows[k].labels)
            if by is not None:
                line.append(self.ranks[by][k])
            cells = [self.rows[k].cells[i] for i in visible]
            line += [cell.text if cell else ABSENT for cell in cells]
            lines.append(line)
        title = " · ".join(filter(None, (caption(self.title), self.protocol)))
        worded = frozenset(c.head for c in self.columns if c.derived and c.derived.words)
        return TextTable(title, headers, lines, self.notes, worded)


@dataclass(frozen=True)
class ReportSection:
    """One model, one results folder, or the numbers that papers report.

    description: one line on all of it; records: provenance of each record, by its name.
    """

    title: str
    description: str
    tables: tuple[Table, ...]
    published: bool = False
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
