"""The top of the leaderboard: the best compressed row of each pattern, what it ties with, and how
it compares with dense."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.reporting import candidates, pairwise, words
from bench.reporting.limits import Limits
from bench.reporting.protocol import VALIDATION
from bench.reporting.table import TextTable, format_number
from bench.reporting.view import ReportSection, Table, TableColumn, TableRow
from bench.results import metrics
from methods.contract.errors import UserError

HEADERS = ("model", "best compressed", "tied with", "quality", "vs. dense", "bytes packed")
CAPTION = (
    "Best compressed: for each pattern, and for quantizers alone, the row of any budget with the "
    "best quality of those that are smaller than their model; if paired tests find no difference "
    "between several, the smallest of them. Vs. dense: compared with the best row that is not "
    "compressed, or with the dense model if paired tests find no difference between the two. In "
    "brackets: the 95% interval, if the two were compared in pairs. Of each model, its main "
    "protocol."
)
MAX_TIED_NAMES = 2
"""Tied rows that are named. Of the others, only the number is given."""


@dataclass(frozen=True)
class Highlight:
    """The best row of a model among rows of one pattern.

    section: number of the model's section; run: its main protocol.
    best: the row that `bench pick` names first for the pattern; tied: the rows that tie with it.
    uncompared: number of rows that were not compared with the best value.
    change: from the best row that is not compressed, or the dense model if it ties with that,
    `reference`, to this row. Both
        are empty without one.
    """

    section: int
    run: str
    model: str
    column: TableColumn
    best: str
    tied: tuple[str, ...]
    uncompared: int
    value: str
    change: str
    reference: str
    size: str

    @property
    def tied_label(self) -> str:
        names = ", ".join(self.tied[:MAX_TIED_NAMES])
        if len(self.tied) > MAX_TIED_NAMES:
            names += f" and {len(self.tied) - MAX_TIED_NAMES} more"
        parts = [names] if names else []
        if self.uncompared:
            parts.append(f"{self.uncompared:,} not compared")
        return "; ".join(parts)


def find_highlights(sections: Sequence[ReportSection]) -> list[Highlight]:
    """Find those of each model's main protocol, in the order of the sections. Numbers from papers
    have none."""
    own = [(i, s) for i, s in enumerate(sections) if not s.published]
    return [h for i, s in own for t in s.tables[:1] for h in _of_table(i, t)]


def to_text_table(highlights: Sequence[Highlight]) -> TextTable:
    lines = []
    for h in highlights:
        quality = f"{h.column.name} {h.value}"
        change = " ".join(filter(None, (h.change, h.reference)))
        model = f"{h.model} ({h.run})" if h.run else h.model
        lines.append([model, h.best, h.tied_label, quality, change, h.size])
    return TextTable("Summary", list(HEADERS), lines)


def _of_table(section: int, table: Table) -> Iterator[Highlight]:
    try:
        column = candidates.quality_column(table)
    except UserError:
        return
    if VALIDATION in table.columns[column].protocol:
        return
    facts = {k: row.facts for k, row in enumerate(table.rows) if row.facts}
    whole = [k for k in facts if not facts[k].compressed and table.value(k, column) is not None]
    sign = table.columns[column].sign
    dense = min(whole, key=lambda k: sign * (table.value(k, column) or 0.0), default=None)
    differ = pairwise.differ_from_best(table, column)
    plain = next((k for k in whole if table.rows[k].filters["method"] == "dense"), None)
    model = dense if plain is None else plain
    is_tied = False
    if dense is not None and plain is not None:
        is_tied = differ.get(pairwise.ordered(plain, dense)) is False
    if is_tied:  # a transform, for example, changes nothing but the last digits
        dense = plain
    limit = math.inf
    if model is not None:
        limit = facts[model].bytes or math.inf
    compressed = [table.rows[k] for k in facts if facts[k].compressed]
    groups = []
    for pattern in dict.fromkeys(row.filters["pattern"] for row in compressed):
        found = candidates.pick(table, Limits(), pattern).meets
        smaller = [c for c in found if c.facts.bytes is None or c.facts.bytes < limit]
        if smaller:
            groups.append(sorted(smaller, key=lambda c: (c.quality, c.index)))
    for rows in sorted(groups, key=lambda rows: rows[0].quality):
        best, *tied = candidates.tied_rows(rows, differ)
        cell = best.row.cells[column]
        change = reference = ""
        if dense is not None:
            change = _describe_change(table, dense, best.index, column)
            reference = _name(table.rows[dense])
        yield Highlight(
            section,
            table.protocol,
            table.title,
            table.columns[column],
            _name(best.row),
            tuple(_name(c.row) for c in tied),
            sum(pairwise.ordered(rows[0].index, c.index) not in differ for c in rows[1:]),
            cell.text if cell else "",
            change,
            reference,
            _describe_size(table, best.index, model),
        )


def _name(row: TableRow) -> str:
    """Return a row's name, with its budget if the table shows the same row with a larger one."""
    if row.part_of is None or row.facts is None or row.facts.tokens is None:
        return row.name
    return f"{row.name}, {words.short_count(row.facts.tokens)} tokens"


def _describe_size(table: Table, row: int, dense: int | None) -> str:
    sizes = [table.value(k, table.column(metrics.SIZE)) for k in (row, dense)]
    if sizes[0] is None:
        return ""
    return " of ".join(format_number(x, None, "B") for x in sizes if x is not None)


def _describe_change(table: Table, dense: int, row: int, column: int) -> str:
    """Return the ratio or difference from dense to a row, with its paired interval if it has
    one."""
    is_ratio = table.columns[column].definition.is_ratio
    interval = table.intervals.get((*pairwise.ordered(dense, row), column))
    # The low end of a very wide interval is rounded to 0.
    if interval is None or (is_ratio and interval.low == 0):
        before, after = table.value(dense, column) or 0.0, table.value(row, column) or 0.0
        if is_ratio:
            return words.ratio(after / before)
        return words.difference(after - before)
    value, low, high = interval.value, interval.low, interval.high
    if is_ratio:
        if dense > row:
            value, low, high = 1 / value, 1 / high, 1 / low
        return words.ratio(value, low, high)
    if dense > row:
        value, low, high = -value, -high, -low
    return words.difference(value, low, high)
