"""The top of the leaderboard: the best compressed row of each table, what it ties with, and how it compares with dense."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.reporting import pairwise, pareto, words
from bench.reporting.protocol import VALIDATION
from bench.reporting.table import TextTable, format_number
from bench.reporting.view import ReportSection, Table, TableCell, TableColumn
from bench.results import metrics

HEADERS = ("model", "best compressed", "tied with", "quality", "vs. dense", "bytes packed")
CAPTION = (
    "Best compressed: for each pattern, and for quantizers alone, the row with the best quality of those that are smaller "
    "than their model; if paired tests find no difference between several, the smallest of them. Vs. dense: compared with "
    "the best row that is not compressed, with the 95% interval in brackets. Of each model, its main protocol."
)
MAX_TIED_NAMES = 2
"""So many tied rows are named; of the others, only the number is given."""


@dataclass(frozen=True)
class Highlight:
    """The best row of one table and quality column, among rows with one pattern and dtype.

    section, table: where the rows are.
    best: of the rows that do not differ from the best value, the one of fewest bytes; tied: the others of these;
    uncompared: how many rows were not compared with it.
    change: from the best row that is not compressed, `reference`, to this one; both empty if there is no such row.
    """

    section: int
    table: int
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
        return "; ".join(filter(None, (names, f"{self.uncompared:,} not compared" if self.uncompared else "")))


def find_highlights(sections: Sequence[ReportSection]) -> list[Highlight]:
    """Those of each section's main protocol, in the order of the sections. Numbers from papers have none."""
    own = [(i, s) for i, s in enumerate(sections) if not s.published]
    return [h for i, s in own for j, t in enumerate(s.tables[:1]) for h in _of_table(i, j, t.protocol, t)]


def to_text_table(highlights: Sequence[Highlight]) -> TextTable:
    lines = []
    for h in highlights:
        quality = f"{h.column.name} {h.value}"
        change = " ".join(filter(None, (h.change, h.reference)))
        lines.append([f"{h.model} ({h.run})" if h.run else h.model, h.best, h.tied_label, quality, change, h.size])
    return TextTable("Summary", list(HEADERS), lines)


def _of_table(section: int, index: int, run: str, table: Table) -> Iterator[Highlight]:
    quality = pareto.quality_metric(table)
    size = next((i for i, c in enumerate(table.columns) if c.metric == metrics.SIZE), None)
    for c, column in enumerate(table.columns):
        if column.metric != quality or column.shown is False or VALIDATION in column.protocol:
            continue
        sign = -1 if column.better == "higher" else 1
        cells = {k: table.rows[k].cells[c] for k in table.whole_rows if not table.rows[k].is_broken}
        loss = {k: sign * x.value for k, x in cells.items() if x and x.value is not None}
        differ = pairwise.significance(table, c)
        groups = {k: (_group(table, k), _dtype(table, k)) for k in loss}
        best_first = sorted(loss, key=lambda k: loss[k])
        whole = {dtype: k for k in reversed(best_first) for group, dtype in (groups[k],) if not group}
        compressed: dict[tuple[str, str], list[int]] = {}
        for k in best_first:
            if groups[k][0] and _is_smaller(table, size, k, whole.get(groups[k][1])):
                compressed.setdefault(groups[k], []).append(k)
        for (_, dtype), rows in compressed.items():
            dense = whole.get(dtype)
            tied = [k for k in rows if k == rows[0] or differ.get(pairwise.ordered(rows[0], k)) is False]
            best, *others = sorted(tied, key=lambda k: (_bytes(table, size, k), loss[k]))
            yield Highlight(
                section,
                index,
                run,
                table.title,
                column,
                _name(table, best),
                tuple(_name(table, k) for k in others),
                sum(k != rows[0] and pairwise.ordered(rows[0], k) not in differ for k in rows),
                _cell(table, best, c).text,
                "" if dense is None else _describe_change(table, dense, best, c),
                "" if dense is None else _name(table, dense),
                _describe_size(table, size, best, dense),
            )


def _group(table: Table, row: int) -> str:
    """The rows that this one competes with; empty if it is not compressed."""
    pattern = table.rows[row].filters["pattern"]
    if pattern != "dense":
        return pattern
    return "dense, quantized" if table.rows[row].is_quantized else ""


def _dtype(table: Table, row: int) -> str:
    """A row's dtype, if its table has several: bytes and quality of two dtypes are not compared."""
    return table.rows[row].labels[table.label_names.index("dtype")] if "dtype" in table.label_names else ""


def _name(table: Table, row: int) -> str:
    return " ".join(filter(None, (table.rows[row].name, _dtype(table, row))))


def _cell(table: Table, row: int, column: int) -> TableCell:
    cell = table.rows[row].cells[column]
    assert cell is not None
    return cell


def _bytes(table: Table, column: int | None, row: int) -> float:
    cell = None if column is None else table.rows[row].cells[column]
    return float("inf") if cell is None or cell.value is None else cell.value


def _is_smaller(table: Table, column: int | None, row: int, dense: int | None) -> bool:
    """Is a row smaller than the dense one? If the size of one is not known, it counts as smaller."""
    sizes = [float("inf") if k is None else _bytes(table, column, k) for k in (row, dense)]
    return float("inf") in sizes or sizes[0] < sizes[1]


def _describe_size(table: Table, column: int | None, row: int, dense: int | None) -> str:
    size = _bytes(table, column, row)
    if size == float("inf"):
        return ""
    full = float("inf") if dense is None else _bytes(table, column, dense)
    return format_number(size, None, "B") + ("" if full == float("inf") else f" of {format_number(full, None, 'B')}")


def _describe_change(table: Table, dense: int, row: int, column: int) -> str:
    """From dense to row: a ratio or a difference, with its paired interval if there is one."""
    is_ratio = table.columns[column].definition.is_ratio
    describe = words.ratio if is_ratio else words.difference
    interval = table.intervals.get((*pairwise.ordered(dense, row), column))
    if interval is None:
        a, b = (_cell(table, k, column).value or 0.0 for k in (dense, row))
        return describe(b / a if is_ratio else b - a)
    ends = [interval.value, interval.low, interval.high]
    if dense > row:
        ends = [1 / x if is_ratio else -x for x in (interval.value, interval.high, interval.low)]
    return describe(*ends)
