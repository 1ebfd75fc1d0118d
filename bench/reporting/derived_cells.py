"""Cells of derived columns beside the readings of records: in tables of a terminal, and in the CSV
of a leaderboard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from bench.comparing.result_set import ResultSet
from bench.reporting import board, derived_columns
from bench.reporting.table import ExtraColumn
from bench.reporting.view import Table, TableCell, TableColumn, TableRow
from bench.results.record import Record
from bench.results.rows import IDENTITY
from bench.system.grouping import group_by


class DerivedCell(NamedTuple):
    """A cell of a derived column. labels: those of a record of its row."""

    labels: Mapping[str, Any]
    column: TableColumn
    cell: TableCell


def extra_columns(records: Sequence[Record]) -> list[ExtraColumn]:
    """Return the derived columns of records. Items are not read, so ratios have no intervals."""
    without_items = [record.model_copy(update={"items": None}) for record in records]
    columns: dict[tuple[str, str], ExtraColumn] = {}
    for model, some in group_by(without_items, lambda record: record.identity.model).items():
        for one in board.boards_of(model, ResultSet("", tuple(some), _no_items)):
            table = one.make_table(paired=lambda column: False)
            for labels, column, cell in cells_of(table, one.records):
                derived = column.derived
                assert derived is not None
                extra = columns.setdefault(
                    (column.metric, column.protocol),
                    ExtraColumn(column.head, derived.after, derived.words),
                )
                extra.texts.setdefault(tuple(labels[c] for c in IDENTITY), cell.text)
    order = [column.name for column in derived_columns.all_columns()]
    return [columns[key] for key in sorted(columns, key=lambda key: order.index(key[0]))]


def _no_items(record: Record) -> Any:
    raise AssertionError(f"record {record.short_key} has no items here")


def cells_of(table: Table, records: Mapping[str, Record]) -> Iterator[DerivedCell]:
    """Yield the cells of derived columns. A row of papers has no records, and is left out."""
    for row in table.rows:
        labels = _labels_of(row, records)
        if labels is None:
            continue
        for column, cell in zip(table.columns, row.cells, strict=True):
            if column.derived and cell:
                yield DerivedCell(labels, column, cell)


def _labels_of(row: TableRow, records: Mapping[str, Record]) -> dict[str, Any] | None:
    """Return the labels of a row. A timing may be of another device than the row, so it counts
    last."""
    stems = [stem for cell in row.cells if cell for stem in cell.records if stem in records]
    identities = [records[stem].identity for stem in stems]
    if not identities:
        return None
    first = min(identities, key=lambda identity: identity.subject == "timing")
    named = {c: row.filters[c] for c in ("method", "pattern", "quantizer")}
    return {**first.labels(), **named}


def to_csv_rows(tables: Iterable[Table], records: Mapping[str, Record]) -> Iterator[dict[str, Any]]:
    """Yield a row of the leaderboard's CSV for each cell. The column `text` has its text."""
    for table in tables:
        for labels, column, cell in cells_of(table, records):
            yield {
                **labels,
                "seed": None,
                "measure": "derived",
                "protocol": table.protocol,
                "metric": column.metric,
                "value": cell.value,
                "unit": column.unit,
                "better": column.better,
                "status": "ok",
                "in_tables": "yes",
                "text": cell.text,
            }
