"""Numbers from papers, out of results/published/*.csv: with their sources, and never mixed with our own."""

from __future__ import annotations

import csv
from decimal import Decimal
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from bench.report.view import Cell, Column, Row, Section, Table
from methods.errors import UserError


class PaperRow(BaseModel):
    """One row of a file, by its header."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    model: Annotated[str, Field(min_length=1)]
    method: Annotated[str, Field(min_length=1)]
    pattern: Annotated[str, Field(min_length=1)]
    perplexity: Annotated[Decimal, Field(gt=0)]
    protocol: Annotated[str, Field(min_length=1)]
    """Corpus and window length, `wikitext2@4096`; `@?` if the source does not say."""
    zero_shot_mean: Annotated[Decimal, Field(ge=0, le=100)] | None
    """In per cent, with the decimals of the source."""
    zero_shot_tasks: str
    """The name of a set of tasks, or what the source says about them."""
    source: Annotated[str, Field(min_length=1)]
    note: str

    @field_validator("zero_shot_mean", mode="before")
    @classmethod
    def _absent(cls, value: str) -> str | None:
        return value or None


def make_section(folder: Path) -> Section | None:
    """All files of a folder as a section; None if they have no rows.

    Raises:
        UserError: a row cannot be read, or has no source.
    """
    rows = [row for path in sorted(folder.glob("*.csv")) for row in read_rows(path)]
    if not rows:
        return None
    models = dict.fromkeys(r.model for r in rows)
    tables = tuple(_table(model, [r for r in rows if r.model == model]) for model in models)
    description = f"{len(rows)} rows as printed in papers. None was measured here, and protocols differ."
    return Section("Published by others", description, tables, folder.as_posix(), published=True)


def read_rows(path: Path) -> list[PaperRow]:
    """The rows of one file.

    Raises:
        UserError: a row cannot be read, or has no source.
    """
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.DictReader(file)
        try:
            return [PaperRow.model_validate(line) for line in lines]
        except ValidationError as fault:
            first = fault.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(
                f"{path}, line {lines.line_num}: invalid {where} = {first['input']!r}: {first['msg'].lower()}"
            ) from None


def _table(model: str, rows: list[PaperRow]) -> Table:
    protocols = list(dict.fromkeys(r.protocol for r in rows))
    sets = list(dict.fromkeys(r.zero_shot_tasks for r in rows if r.zero_shot_mean is not None))
    columns = (
        *(Column("perplexity", p, "lower", "1") for p in protocols),
        *(Column("mean_acc", s, "higher", "%") for s in sets),
    )
    ranked = sorted(rows, key=lambda r: (protocols.index(r.protocol), r.method != "dense", r.perplexity))
    return Table(model, ("method", "pattern", "source"), columns, tuple(_row(r, columns) for r in ranked))


def _row(row: PaperRow, columns: tuple[Column, ...]) -> Row:
    cells: list[Cell | None] = []
    for column in columns:
        value = row.perplexity if column.protocol == row.protocol else None
        if column.metric == "mean_acc":
            value = row.zero_shot_mean if column.protocol == row.zero_shot_tasks else None
        cells.append(None if value is None else Cell(f"{value:,}", float(value)))
    source = row.source + (f" ({row.note})" if row.note else "")
    filters = {"model": row.model, "method": row.method, "pattern": row.pattern, "quantizer": ""}
    return Row(f"{row.method}, {row.source}", (row.method, row.pattern, source), filters, tuple(cells), source)
