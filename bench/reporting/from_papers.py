"""Numbers from papers in bench/assets/published/*.csv, with their sources. They are never mixed
with measured ones."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from bench.reporting import words
from bench.reporting.derived_columns import PERPLEXITY_RATIO
from bench.reporting.view import ReportSection, Table, TableCell, TableColumn, TableRow
from bench.system.grouping import group_by
from bench.system.values import describe_allowed
from methods.contract.errors import UserError

MARK = "‡"
MAX_PERPLEXITY = 10**300
"""Largest perplexity. A float holds it, and its ratio to another."""
REST = "rest"
"""Name of the values of a line that the header has no name for."""
CAVEAT = f"{MARK}: not comparable with the other rows. The reason is beside its source."


class PaperRow(BaseModel, extra="forbid", frozen=True):
    """A row of a file, by its header."""

    model: Annotated[str, Field(min_length=1)]
    method: Annotated[str, Field(min_length=1)]
    pattern: Annotated[str, Field(min_length=1)]
    perplexity: Annotated[Decimal, Field(ge=1, lt=MAX_PERPLEXITY)]
    protocol: Annotated[str, Field(min_length=1)]
    """Corpus and window length, `wikitext2@4096`; `@?` if the source does not say."""
    zero_shot_mean: Annotated[
        Annotated[Decimal, Field(ge=0, le=100)] | None, BeforeValidator(lambda text: text or None)
    ]
    """Mean accuracy in per cent, with the decimals of the source."""
    zero_shot_tasks: str
    """Name of a set of tasks, or the words of the source."""
    source: Annotated[str, Field(min_length=1)]
    note: str
    quantizer: str = "none"
    # A line that ends before the last column has None in it.
    caveat: Annotated[str, BeforeValidator(lambda text: text or "")] = ""
    """Reason why the row is not comparable: it is no result of its pattern, or it saw the tasks in
    training."""


def make_section(folder: Path) -> ReportSection | None:
    """Make a section of all files of a folder. Returns None if they have no rows."""
    rows = [row for path in sorted(folder.glob("*.csv")) for row in read_rows(path)]
    if not rows:
        return None
    groups = group_by(rows, lambda row: (row.model, row.protocol))
    models = list(dict.fromkeys(r.model for r in rows))
    tables = tuple(
        _table(*key, groups[key])
        for key in sorted(groups, key=lambda key: (models.index(key[0]), -len(groups[key])))
    )
    description = (
        f"{len(rows)} rows as printed in papers. None was measured here. Ratios are computed from "
        "the printed numbers of one protocol, and have no intervals. Columns for which no row "
        "has a number are left out: bits per weight, worst task, agreement, speed and cost. "
        + CAVEAT
    )
    return ReportSection("Published by others", description, tables, published=True)


def read_rows(path: Path) -> list[PaperRow]:
    """Read the rows of a file, or raise UserError if one cannot be read or has no source."""
    if not path.is_file():
        raise UserError(f"{path} is not a regular file: replace it with one")
    # Spreadsheets write a mark before the header.
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.DictReader(file, restkey=REST)
        try:
            return [PaperRow.model_validate(line) for line in lines]
        except ValidationError as fault:
            first = fault.errors()[0]
            where = ".".join(map(str, first["loc"]))
            if first["type"] == "missing":
                raise UserError(f"{path} has no column {where!r}: add it to the header") from None
            if where == REST:
                raise UserError(
                    f"{path}, line {lines.line_num}: more values than the header has "
                    f"({first['input']!r}): quote values with commas"
                ) from None
            raise UserError(
                f"{path}, line {lines.line_num}: invalid {where} = {first['input']!r}: "
                f"{describe_allowed(first)}"
            ) from None
        except (UnicodeDecodeError, csv.Error) as fault:
            raise UserError(
                f"{path} cannot be read after line {lines.line_num} ({fault}): save it as CSV in "
                "UTF-8"
            ) from None


def _table(model: str, protocol: str, rows: list[PaperRow]) -> Table:
    sets = list(dict.fromkeys(r.zero_shot_tasks for r in rows if r.zero_shot_mean is not None))
    dense = next((r.perplexity for r in rows if r.method == "dense"), None)
    columns = [TableColumn("perplexity", protocol, "lower", "1")]
    if dense:
        columns.append(PERPLEXITY_RATIO.on(protocol, shown=True))
    columns += [TableColumn("mean_acc", tasks, "higher", "%") for tasks in sets]
    ranked = sorted(rows, key=lambda r: (r.method != "dense", r.perplexity))
    names = ("method", "pattern", "quantizer", "source")
    lines = [_row(row, columns, dense) for row in ranked]
    return Table(model, names, tuple(columns), tuple(lines), protocol=protocol)


def _row(row: PaperRow, columns: Sequence[TableColumn], dense: Decimal | None) -> TableRow:
    cells: list[TableCell | None] = []
    for column in columns:
        cell: TableCell | None = None
        if column.metric == "perplexity":
            cell = TableCell(f"{row.perplexity:,}", float(row.perplexity))
        elif column.metric == "mean_acc":
            if column.protocol == row.zero_shot_tasks and row.zero_shot_mean is not None:
                cell = TableCell(f"{row.zero_shot_mean:,}", float(row.zero_shot_mean))
        elif row.method != "dense":
            assert dense is not None
            ratio = float(row.perplexity / dense)
            cell = TableCell(words.ratio(ratio), ratio)
        cells.append(cell)
    source, method = row.source, row.method
    if row.note:
        source += f" ({row.note})"
    if row.caveat:
        source += f"; {MARK} {row.caveat}"
        method += f" {MARK}"
    filters = {
        "model": row.model,
        "method": row.method,
        "pattern": row.pattern,
        "quantizer": row.quantizer,
    }
    return TableRow(
        f"{method}, {row.source}",
        (method, row.pattern, row.quantizer, source),
        filters,
        tuple(cells),
        source,
    )
