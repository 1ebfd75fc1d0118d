"""Tables of records: one for each model, methods as lines, metrics as columns, seeds summarized."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from bench.inputs import models
from bench.reporting import task_averages
from bench.reporting.hardware import pattern_label
from bench.reporting.labelled_rows import Row, facts_of, labelled_rows
from bench.results import metrics, signatures
from bench.results.record import Record
from bench.results.rows import IDENTITY
from bench.system.grouping import group_by
from bench.system.text import escape_markdown

ALWAYS_SHOWN = ("method", "pattern")
"""Labels that a table has even if all rows agree on them."""

ABSENT = "–"
"""Text of a number that was not measured. A cell is never blank, and such a cell is never 0."""

TEXT_COLUMNS = (
    *IDENTITY,
    "source",
    "best compressed",
    "tied with",
    "row",
    "order",
    signatures.SIGNED_BY,
)
"""Columns of words, which are aligned at the left. Numbers are aligned at the right."""

SPREAD = (
    "After ±: the standard deviation over calibration seeds if a row has several, otherwise the "
    "standard error over windows or questions."
)
"""Meaning of the second number of a cell."""
NO_TASKS = ", rows without tasks"
"""End of the title of a table whose rows have no tasks, after one whose rows have."""
ROUNDING = 1e-6
"""Largest spread of seeds, as a share of their mean, that is none."""
MAX_REASON = 60
"""Characters of a failure's reason in a cell. bench show prints all of it."""

ColumnKey = tuple[str, str, str]
"""metric, protocol, measure"""


@dataclass(frozen=True)
class TextTable:
    """A pivoted table as text: headers, one line of cells for each method, and notes below it."""

    title: str
    headers: list[str]
    lines: list[list[str]]
    notes: tuple[str, ...] = ()
    worded: frozenset[str] = frozenset()
    """Headers of columns of words, besides TEXT_COLUMNS."""

    def is_worded(self, header: str) -> bool:
        """Return whether a column's cells are words."""
        return header in TEXT_COLUMNS or header in self.worded


@dataclass(frozen=True)
class ExtraColumn:
    """A column that is computed from others."""

    head: str
    after: str
    """Measure whose columns it follows. Empty: it is at the end."""
    words: bool
    """True if its cells are words, not numbers."""
    texts: dict[tuple[Any, ...], str] = field(default_factory=dict)
    """Text of each row that has one, by its labels in IDENTITY."""


def all_notes(table: TextTable) -> tuple[str, ...]:
    """Return the notes of a table, and what ± means if a row has several seeds: its rows then
    differ in that."""
    several = any("seeds)" in cell for cell in chain.from_iterable(table.lines))
    return (*table.notes, SPREAD) if several else table.notes


def text_tables(
    records: Sequence[Record],
    signers: Mapping[str, str] | None = None,
    extra: Sequence[ExtraColumn] = (),
) -> list[TextTable]:
    """Make a table for each model, and one for its rows without tasks. A column is one metric under
    one protocol.

    Several seeds give mean ± standard deviation over seeds. A single seed gives value ± standard
    error over items. If a seed failed, its cell shows the failure, and no mean. Missing seeds are
    shown in the label if another method has them, and in the cell if other cells of the row have
    them.

    signers: who signed each record, for one more column. extra: further columns, of which a table
    has those in which a row has text.
    """
    by_model = group_by(labelled_rows(records), lambda row: str(row["model"]))
    out = []
    for model, rows in by_model.items():
        for kind, part in _by_tasks(rows):
            out.append(_text_table(caption(model) + kind, part, signers, extra))
    return out


def caption(model: str) -> str:
    """Return a model's name with what it is, if its alias says so."""
    return ": ".join(filter(None, (model, models.describe(model))))


def _by_tasks(rows: list[Row]) -> list[tuple[str, list[Row]]]:
    """Return the rows of lines with and without tasks apart, each with words for the title. One
    part if all are alike."""

    def line_of(row: Row) -> tuple[Any, ...]:
        return tuple(row[column] for column in IDENTITY)

    tested = {line_of(row) for row in rows if row["measure"] == "zeroshot"}
    parts = group_by(rows, lambda row: line_of(row) in tested)
    if len(parts) == 1:
        return [("", rows)]
    return [("", parts[True]), (NO_TASKS, parts[False])]


def _text_table(
    title: str,
    rows: list[Row],
    signers: Mapping[str, str] | None,
    extra: Sequence[ExtraColumn],
) -> TextTable:
    table = pivot(rows)
    label_names, headers = list(table.label_names), []
    if signers is not None:
        label_names.append(signatures.SIGNED_BY)
    for metric, protocol, _ in table.columns:
        about = task_averages.describe_column(metric, protocol, rows)
        headers.append(column_header(metric, protocol, about))
    of_lines = [cells(line.group, table.columns) for line in table.lines]
    shown = _insert(extra, table, headers, of_lines)
    lines = []
    for line, own in zip(table.lines, of_lines, strict=True):
        labels = list(line.labels)
        if signers is not None:
            stems = [row["record"] for row in line.group if row.get("record")]
            labels.append(signatures.of_row(stems, signers))
        lines.append(labels + own)
    worded = frozenset(column.head for column in shown if column.words)
    return TextTable(title, [*label_names, *headers], lines, table.notes, worded)


def _insert(
    extra: Sequence[ExtraColumn], table: PivotTable, headers: list[str], lines: list[list[str]]
) -> list[ExtraColumn]:
    """Insert the columns in which a line has text into headers and lines, and return them."""
    measures = [measure for _, _, measure in table.columns]
    labels = [tuple(each.group[0][column] for column in IDENTITY) for each in table.lines]
    shown = [column for column in extra if not column.texts.keys().isdisjoint(labels)]
    for column in shown:
        place = len(measures)
        if column.after in measures:
            place -= measures[::-1].index(column.after)
        measures.insert(place, column.after)
        headers.insert(place, column.head)
        for line, key in zip(lines, labels, strict=True):
            line.insert(place, column.texts.get(key, ABSENT))
    return shown


@dataclass(frozen=True)
class PivotLine:
    """A line of a table: its labels as text, and the readings of all its seeds."""

    labels: tuple[str, ...]
    group: list[Row]


@dataclass(frozen=True)
class PivotTable:
    """One model's table before it is text."""

    label_names: tuple[str, ...]
    columns: tuple[ColumnKey, ...]
    lines: tuple[PivotLine, ...]
    notes: tuple[str, ...] = ()


def pivot(rows: list[Row], all_metrics: bool = False) -> PivotTable:
    """Pivot one model's rows. all_metrics: with the metrics that tables do not show."""
    always = {*ALWAYS_SHOWN}
    if any(row["quantizer"] != "none" for row in rows):
        always.add("quantizer")
    label_names = [c for c in IDENTITY[1:] if c in always or _varies(rows, c)]
    averages = task_averages.average_rows(rows)
    rows = [r for r in rows if all_metrics or metrics.find(r["metric"]).in_tables] + averages
    columns = _columns(rows)
    groups = group_by(rows, lambda row: tuple(row[c] for c in IDENTITY))
    expected: dict[tuple[Any, ...], set[int]] = {}
    for row in rows:
        if row["seed"] is not None:
            expected.setdefault(_all_but_method(row), set()).add(row["seed"])
    ordered = sorted(groups.values(), key=lambda group: _sort_key(group, columns))
    lines = tuple(
        PivotLine(tuple(_labels(label_names, group, expected)), group) for group in ordered
    )
    return PivotTable(tuple(label_names), tuple(columns), lines, task_averages.notes(rows))


def _varies(rows: list[Row], column: str) -> bool:
    """Return whether rows differ in a column. A row without calibration or training does not
    count."""
    values = {r[column] for r in rows if r[column] is not None}
    if column in ("calibration", "training"):
        values -= {""}
    return len(values) > 1


def _columns(rows: list[Row]) -> list[ColumnKey]:
    measured = {(r["protocol"], r["measure"]) for r in rows if r["value"] is not None}
    named = (
        r for r in rows if not _has_no_metric(r) or (r["protocol"], r["measure"]) not in measured
    )
    columns = dict.fromkeys((r["metric"], r["protocol"], r["measure"]) for r in named)
    return sorted(columns, key=lambda c: (metrics.column_order(c[0]), c[1] or ""))


def _all_but_method(row: Row) -> tuple[Any, ...]:
    return tuple(row[c] for c in IDENTITY if c != "method")


def _seeds(group: list[Row]) -> set[int]:
    return {r["seed"] for r in group if r["seed"] is not None}


def _labels(
    label_names: list[str], group: list[Row], expected: dict[tuple[Any, ...], set[int]]
) -> list[str]:
    """Return a line's labels. expected: seeds that any method has, by the rest of its identity."""
    first = dict(group[0])
    seeds = _seeds(group)
    if seeds:
        first["method"] += _seed_count(len(seeds), len(expected[_all_but_method(group[0])]))
    facts = facts_of(group)
    if facts:
        first["method"] += f" ({'; '.join(facts)})"
    first["pattern"] = pattern_label(first["pattern"], first["quantizer"] or "none")
    return ["" if first[c] is None else str(first[c]) for c in label_names]


def _seed_count(here: int, expected: int) -> str:
    """Say how many seeds a line has, and how many are expected if some are missing."""
    if here < expected:
        return f" ({here} of {expected} seeds)"
    return f" ({here} seeds)" if here > 1 else ""


def column_header(metric: str, protocol: str, about: str = "") -> str:
    """Return the head of a column. about: what follows in brackets."""
    label = metrics.find(metric).label
    name = f"{label} {protocol}" if names_protocol(protocol) else label
    return f"{name} ({about})" if about else name


def names_protocol(protocol: str) -> bool:
    """Return whether the protocol is part of a column's name. It is not if it only says that
    weights were counted."""
    return protocol not in ("weights", "targets")


def _sort_key(group: list[Row], columns: list[ColumnKey]) -> tuple[Any, ...]:
    """Sort key: lines measured in the same columns together, dense first, then by the first column,
    failures last.

    Equal numbers are in the order of their names.
    """
    line = group[0]
    by_column = []
    for column in columns:
        metric = metrics.find(column[0])
        if metric.in_tables and metric.sorts_rows:
            by_column.append(_readings(group, column))
    absent = tuple(not readings for readings in by_column)
    first = next(filter(None, by_column), [])
    good = [r["value"] for r in first if r["value"] is not None]
    mean = sum(good) / len(good) if good else 0.0
    if any(r["better"] == "higher" for r in first):
        mean = -mean
    name = (line["quantizer"] != "none", line["method"], line["pattern"], line["quantizer"])
    return (absent, line["method"] != "dense", not good, mean, name)


def _readings(group: list[Row], column: ColumnKey) -> list[Row]:
    """Return a line's readings for a column. A measure that failed counts in all of its columns."""
    metric, protocol, measure = column
    own = [r for r in group if r["protocol"] == protocol and r["measure"] == measure]
    return [r for r in own if r["metric"] == metric or _has_no_metric(r)]


def _has_no_metric(row: Row) -> bool:
    """Return whether the measure failed before it named its metrics."""
    return row["value"] is None and row["metric"] == row["measure"]


def cells(group: list[Row], columns: Iterable[ColumnKey]) -> list[str]:
    """Return a line's cells as text. If a cell further left has the same reason, only its first
    word is repeated."""
    out: list[str] = []
    for column in columns:
        summary = summarize(group, column)
        text = ABSENT
        if summary:
            text = summary.text
            if summary.value is None and text in out:
                text = text.partition(":")[0]
        out.append(text)
    return out


@dataclass(frozen=True)
class CellSummary:
    """A cell: the mean of a line's readings over seeds, or the reason why it has none."""

    text: str
    rows: tuple[Row, ...]
    value: float | None = None
    spread: float | None = None
    """Standard deviation over seeds; with one seed, the standard error over items."""


def summarize(group: list[Row], column: ColumnKey) -> CellSummary | None:
    """Summarize a line's readings in one column. Returns None if it was not measured."""
    rows = tuple(_readings(group, column))
    if not rows:
        return None
    seeds = len(_seeds(group)) or 1
    bad = [r for r in rows if r["value"] is None]
    if bad:
        text = _status(bad[0])
        if seeds > 1:
            text += f" ({len(bad)} of {seeds} seeds)"
        return CellSummary(text, rows)
    values = [r["value"] for r in rows]
    mean, spread = values[0], rows[0]["stderr"]
    if len(values) > 1:
        mean, spread = statistics.mean(values), statistics.stdev(values)
        # Equal seeds differ by the rounding of their processors.
        if not spread > ROUNDING * abs(mean):
            spread = None
    text = format_number(mean, spread, rows[0]["unit"])
    task, *other_tasks = {r.get("worst_task") for r in rows}
    if task and not other_tasks:
        text += f" ({task})"
    if len(values) < seeds:
        text += _seed_count(len(values), seeds)
    # Without a value, a claimed number is in no rank, front or choice.
    if any(r.get("claimed") for r in rows):
        return CellSummary(f"{text} claimed", rows)
    return CellSummary(text, rows, mean, spread)


def _status(row: Row) -> str:
    if row["reason"] == "OOM":
        return "OOM"
    reason = row["reason"] or ""
    if len(reason) > MAX_REASON:
        reason = textwrap.shorten(reason, MAX_REASON, placeholder=" …")
    return f"{row['status']}: {reason}"


def format_number(value: float, stderr: float | None, unit: str) -> str:
    """Format a number with the digits that its standard error supports, bytes in MB or kB."""
    if unit == "B":
        if value >= 1e5:
            return f"{value / 1e6:,.1f} MB"
        return f"{value / 1e3:,.1f} kB"
    if stderr:
        digits = max(0, 1 - math.floor(math.log10(stderr)))
        return f"{value:,.{digits}f} ± {stderr:,.{digits}f}"
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.4g}"


def to_markdown(table: TextTable, escape: Callable[[str], str] = escape_markdown) -> str:
    """Return the table in Markdown with its notes, without its title."""

    def row(cells: Iterable[str]) -> str:
        return "| " + " | ".join(map(escape, cells)) + " |"

    rule = "|" + "|".join("---" if table.is_worded(h) else "---:" for h in table.headers) + "|"
    lines = [row(table.headers), rule, *map(row, table.lines)]
    lines += [f"\n{escape(note)}" for note in table.notes]
    return "\n".join(lines) + "\n"
