"""A smaller dense model as rows of a larger one's table. Their tokens may differ, so only bits per
byte are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from statistics import fmean

from bench.reporting.table import format_number
from bench.reporting.view import ReportSection, Table, TableCell, TableColumn, TableRow
from bench.results import metrics
from bench.results.record import Record
from bench.system.suggest import describe_unknown
from methods.contract.errors import UserError

NOT_MADE = "not made here"
"""Words in the name of a row whose model was not made from that of its table."""
MAX_NAMES = 2
"""Most tracks that the head of a column names."""
UNIT = "bits/byte"

Questions = frozenset[tuple[str, str | None, int | None]]
"""Tasks of a track: name, version and number of questions of each."""


def add_smaller(
    sections: Sequence[ReportSection], name: str, records: Mapping[str, Record]
) -> list[ReportSection]:
    """Add the dense rows of a model, also quantized ones, to the tables of larger models that share
    a track with it.

    sections: of models, the largest first. records: by their stems. Raise UserError if no table can
    have the rows.
    """
    titles = [section.title for section in sections]
    if name not in titles:
        raise UserError(describe_unknown("model with records", name, titles))
    place = titles.index(name)
    out = list(sections)
    for k in range(place):
        tables = [_with_rows(table, sections[place], records) for table in out[k].tables]
        if tables != list(out[k].tables):
            known = {**sections[place].records, **out[k].records}
            out[k] = replace(out[k], tables=tuple(tables), records=known)
    if out == list(sections):
        raise UserError(
            f"no larger model can be compared with {name}, because none shares a measure in bits "
            "per byte with it: measure both with --measures answers,size and the same --tasks, "
            "such as knowledge,code"
        )
    return out


def _with_rows(table: Table, smaller: ReportSection, records: Mapping[str, Record]) -> Table:
    """Return a table with the rows, and a column with the mean of the tracks that both have.
    Unchanged if they share none."""
    own = _tracks(table, records)
    for other in smaller.tables:
        theirs, size = _tracks(other, records), other.column(metrics.SIZE)
        shared = [track for track in own if track in theirs]
        their_columns = [theirs[track] for track in shared]
        means = {}
        for k in other.whole_rows:
            mean = _mean(other, k, their_columns)
            if mean and _is_dense(other.rows[k]) and other.value(k, size) is not None:
                means[k] = mean
        if means:
            break
    else:
        return table
    own_columns = [own[track] for track in shared]
    places = {(c.metric, c.protocol): i for i, c in enumerate(other.columns)}
    compared = dict(zip(own_columns, their_columns, strict=True))
    for i, c in enumerate(table.columns):
        if c.metric == metrics.SIZE:
            compared[i] = places[c.metric, c.protocol]
    rows = [
        replace(row, cells=(*row.cells, _mean(table, k, own_columns)))
        for k, row in enumerate(table.rows)
    ]
    for k, mean in means.items():
        row = other.rows[k]
        cells: list[TableCell | None] = [None] * len(table.columns)
        for i, of_other in compared.items():
            cells[i] = row.cells[of_other]
        rows.append(_renamed(row, smaller.title, table, (*cells, mean)))
    tasks = chain.from_iterable(shared)
    names = sorted({task.partition("/")[0] for task, *_ in tasks})
    about = ", ".join(names) if len(names) <= MAX_NAMES else f"{len(names)} tracks"
    column = TableColumn(metrics.MEAN_BITS, about, "lower", UNIT, shown=True)
    ranks = {c: (*r, *[""] * len(means)) for c, r in table.ranks.items()}
    remark = (
        f"{smaller.title} is another model, {NOT_MADE}. It is compared by bits per byte of the "
        "same right answers, because perplexities of two tokenizers cannot be compared. Its "
        "other columns are empty."
    )
    columns = (
        *(replace(c, shown=not c.hidden or c.metric == metrics.SIZE) for c in table.columns),
        column,
    )
    out = replace(
        table, columns=columns, rows=tuple(rows), ranks=ranks, remarks=(*table.remarks, remark)
    )
    return out.with_first(
        [i for i, c in enumerate(columns) if c is column or c.metric == metrics.SIZE]
    )


def _is_dense(row: TableRow) -> bool:
    return row.filters["method"] == row.filters["pattern"] == "dense"


def _tracks(table: Table, records: Mapping[str, Record]) -> dict[Questions, int]:
    """Return the columns of the tracks that a table has values of, by their questions. Rules for
    BOS may differ."""
    out: dict[Questions, int] = {}
    for i, column in enumerate(table.columns):
        if column.metric != metrics.MEAN_BITS:
            continue
        cells = (row.cells[i] for row in table.rows)
        cell = next((cell for cell in cells if cell and cell.value is not None), None)
        if cell:
            tasks = (records[stem].identity.protocol for stem in cell.records)
            out[frozenset((task.name, task.version, task.limit) for task in tasks)] = i
    return out


def _mean(table: Table, row: int, columns: Sequence[int]) -> TableCell | None:
    """Return the mean of some cells, or None if there are none or one has no value."""
    own = table.rows[row].cells
    cells = [cell for cell in map(own.__getitem__, columns) if cell]
    values = [cell.value for cell in cells if cell.value is not None]
    if not values or len(values) < len(columns):
        return None
    mean = fmean(values)
    records = tuple(dict.fromkeys(chain.from_iterable(cell.records for cell in cells)))
    return TableCell(format_number(mean, None, UNIT), mean, records=records, average=True)


def _renamed(
    row: TableRow, model: str, table: Table, cells: tuple[TableCell | None, ...]
) -> TableRow:
    quantizer = row.filters["quantizer"] if row.is_quantized else ""
    own = {
        "method": f"{model}, {NOT_MADE}",
        "pattern": row.filters["pattern"],
        "quantizer": quantizer or "none",
    }
    return TableRow(
        " ".join(filter(None, (model, quantizer))) + f" ({NOT_MADE})",
        tuple(own.get(name, "") for name in table.label_names),
        row.filters,
        cells,
    )
