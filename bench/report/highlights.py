"""What stands first: of each table's rows that are smaller than their model, which came out best, and against what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.report import pairwise, pareto
from bench.report.table import TextTable, number
from bench.report.view import Cell, Column, Section, Table
from bench.results import metrics

HEADERS = ("model", "best of what is smaller", "as good", "quality", "against uncompressed", "bytes packed")
CHOICE = "validation"
"""A corpus with this in its name is what recipes are chosen on: what is best there has been sought there."""
ABOUT = (
    "Of the rows that are smaller than their model: the smallest of those that paired tests cannot tell from the best. "
    "Against the best row that nothing made smaller; in brackets 95%. Validation splits, on which recipes were chosen, "
    "do not count."
)
TIED = 2
"""Names of rows as good as the best that are written out; of more, how many."""


@dataclass(frozen=True)
class Answer:
    """Rows of one table and column with one pattern and dtype. section, table: where they stand.

    best: of the rows not told apart from the one of best value, that of fewest bytes; tied: the others of these;
    unknown: rows that were not compared with it.
    against: the best row that nothing made smaller, and what lies between; empty where there is none.
    """

    section: int
    table: int
    run: str
    model: str
    column: Column
    best: str
    tied: tuple[str, ...]
    unknown: int
    value: str
    against: str
    reference: str
    packed: str

    @property
    def others(self) -> str:
        told = ", ".join(self.tied[:TIED])
        if len(self.tied) > TIED:
            told += f" and {len(self.tied) - TIED} more"
        return "; ".join(filter(None, (told, f"{self.unknown:,} not compared" if self.unknown else "")))


def of(sections: Sequence[Section]) -> list[Answer]:
    """Sorted by model; of one model in the order of the sections."""
    ours = [(i, s) for i, s in enumerate(sections) if not s.published]
    found = [a for i, s in ours for j, t in enumerate(s.tables) for a in _table(i, j, s.title, t)]
    return sorted(found, key=lambda a: a.model)


def grid(found: Sequence[Answer]) -> TextTable:
    lines = []
    for a in found:
        quality = f"{a.column.name} {a.value}"
        against = " ".join(filter(None, (a.against, a.reference)))
        lines.append([f"{a.model} ({a.run})", a.best, a.others, quality, against, a.packed])
    return TextTable("In short", list(HEADERS), lines)


def _table(section: int, index: int, run: str, table: Table) -> Iterator[Answer]:
    kind = pareto.kind(table)
    size = next((i for i, c in enumerate(table.columns) if c.metric == metrics.SIZE), None)
    for c, column in enumerate(table.columns):
        if column.metric != kind or CHOICE in column.protocol:
            continue
        sign = -1 if column.better == "higher" else 1
        worth = {k: sign * x.value for k, r in enumerate(table.rows) if (x := r.cells[c]) and x.value is not None}
        apart = pairwise.apart(table, c)
        entered = {k: (_among(table, k), _dtype(table, k)) for k in worth}
        for among, dtype in sorted({e for e in entered.values() if e[0]}):
            whole = min((k for k in worth if entered[k] == ("", dtype)), key=lambda k: worth[k], default=None)
            rows = sorted((k for k in worth if entered[k] == (among, dtype)), key=lambda k: worth[k])
            tied = [k for k in rows if k == rows[0] or apart.get(pairwise.pair(rows[0], k)) is False]
            best, *others = sorted(tied, key=lambda k: (_bytes(table, size, k), worth[k]))
            yield Answer(
                section,
                index,
                run,
                table.title,
                column,
                _name(table, best),
                tuple(_name(table, k) for k in others),
                sum(k != rows[0] and pairwise.pair(rows[0], k) not in apart for k in rows),
                _cell(table, best, c).text,
                "" if whole is None else _between(table, whole, best, c),
                "" if whole is None else _name(table, whole),
                _packed(table, size, best, whole),
            )


def _among(table: Table, row: int) -> str:
    """The rows that this one competes with; empty where nothing made it smaller."""
    about = table.rows[row].about
    if about["pattern"] != "dense":
        return about["pattern"]
    return "" if about["quantizer"] in ("", "none") else "dense, quantized"


def _dtype(table: Table, row: int) -> str:
    """Of a row where its table has several: bytes and quality of two are no contest."""
    return table.rows[row].labels[table.told.index("dtype")] if "dtype" in table.told else ""


def _name(table: Table, row: int) -> str:
    return " ".join(filter(None, (table.rows[row].name, _dtype(table, row))))


def _cell(table: Table, row: int, column: int) -> Cell:
    cell = table.rows[row].cells[column]
    assert cell is not None
    return cell


def _bytes(table: Table, column: int | None, row: int) -> float:
    cell = None if column is None else table.rows[row].cells[column]
    return float("inf") if cell is None or cell.value is None else cell.value


def _packed(table: Table, column: int | None, row: int, whole: int | None) -> str:
    own = _bytes(table, column, row)
    if own == float("inf"):
        return ""
    rest = float("inf") if whole is None else _bytes(table, column, whole)
    return number(own, None, "B") + ("" if rest == float("inf") else f" of {number(rest, None, 'B')}")


def _between(table: Table, whole: int, row: int, column: int) -> str:
    """row against whole: a ratio or a difference, with its paired interval where there is one."""
    ratio = table.columns[column].ratio
    found = table.intervals.get((*pairwise.pair(whole, row), column))
    if found is None:
        a, b = (_cell(table, k, column).value or 0.0 for k in (whole, row))
        return _told(ratio, b / a if ratio else b - a)
    ends = [found.value, found.low, found.high]
    if whole > row:
        ends = [1 / x if ratio else -x for x in (found.value, found.high, found.low)]
    value, low, high = (_told(ratio, x) for x in ends)
    return f"{value} ({low} to {high})"


def _told(ratio: bool, value: float) -> str:
    return f"×{value:.3f}" if ratio else f"{value:+.3f}".replace("-", "−")
