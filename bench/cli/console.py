"""Print rows, tables and errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from bench.system.text import escape_markdown
from methods.errors import UserError

if TYPE_CHECKING:
    from rich.text import Text

    from bench.results.record import Record

FORMATS = ("table", "json", "csv", "md")
MAX_UNWRAPPED, MAX_WORD = 14, 24
"""In characters: cells up to this length are not wrapped, and words up to this length are not cut."""
FILE_WIDTH = 200
"""The width of a table in a file, unless it needs more."""

Rows = Sequence[dict[str, Any]]


def require_format(format_: str, equal_bytes: bool) -> None:
    """
    Raises:
        UserError: an unknown format, or one that cannot be had with `equal_bytes`.
    """
    if format_ not in FORMATS:
        raise UserError(f"unknown format {format_!r}: use one of {', '.join(FORMATS)}")
    if equal_bytes and format_ not in ("table", "md"):
        raise UserError(f"--equal-bytes does not work with --format {format_}: use --format table or md")


def print_records(records: list[Record], format_: str, equal_bytes: bool = False) -> None:
    """Print records as tables, or in another format. equal_bytes: sparse rows with dense ones of about the same size.

    Raises:
        UserError: an unknown format, or no rows of about the same size.
    """
    from bench.report import equal_bits
    from bench.report.table import text_tables, to_markdown
    from bench.results.rows import IDENTITY, to_csv, to_json

    require_format(format_, equal_bytes)
    if format_ == "json":
        typer.echo(to_json(records))
        return
    if format_ == "csv":
        typer.echo(to_csv(records), nl=False)
        return
    tables = equal_bits.text_tables(records) if equal_bytes else text_tables(records)
    if equal_bytes and not tables:
        raise UserError(
            "no sparse row has a dense row of similar size: add dense quantized rows, for example with "
            "bench run --dtype bfloat16 --quant none,int8,int3-rtn,int4-gptq"
        )
    if format_ == "md":
        typer.echo("\n".join(f"**{escape_markdown(t.title)}**\n\n{to_markdown(t)}" for t in tables), nl=False)
        return
    for table in tables:
        right = [header not in IDENTITY for header in table.headers]
        print_table(table.headers, table.lines, right=right, title=table.title)


def fail(sentence: str, code: int) -> NoReturn:
    """Print an error and exit."""
    typer.echo(f"bench: {sentence}", err=True)
    raise typer.Exit(code)


def print_rows(rows: Rows, as_json: bool) -> None:
    """Print rows as a table, or as JSON."""
    if as_json:
        print(json.dumps(list(rows), indent=1))
        return
    names = list(rows[0]) if rows else ["nothing here"]
    right = [_is_numeric(rows, name) for name in names]
    print_table([n.replace("_", " ") for n in names], [[_text(row[n]) for n in names] for row in rows], right=right)


def print_table(
    headers: Sequence[str], lines: Sequence[Sequence[str | Text]], right: Sequence[bool], title: str = ""
) -> None:
    """Print a table; if the terminal is too narrow for it, a block for each of its lines.

    right: which columns are aligned to the right.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    texts = [[Text(cell) if isinstance(cell, str) else cell for cell in line] for line in lines]
    columns = [[header, *(line[i].plain for line in texts)] for i, header in enumerate(headers)]
    borders = 3 * len(columns) + 1
    if sys.stdout.isatty():
        console = Console()
    else:
        console = Console(width=max(FILE_WIDTH, borders + sum(map(_least_width, columns))))
    if widths := column_widths(columns, console.width - borders):
        table = Table(title=Text(title) if title else None, title_justify="left")
        for header, width, is_right in zip(headers, widths, right, strict=True):
            table.add_column(Text(header), width=width, overflow="fold", justify="right" if is_right else "left")
        for line in texts:
            table.add_row(*line)
        console.print(table)
        return
    if title:
        console.print(Text(title, "bold"), end="\n\n")
    for line in texts:
        block = Table.grid(padding=(0, 2))
        block.add_column(overflow="fold", style="dim")
        block.add_column(overflow="fold")
        for header, cell in zip(headers, line, strict=True):
            if cell.plain:
                block.add_row(Text(header), cell)
        console.print(block, "")


def column_widths(columns: Sequence[Sequence[str]], available: int) -> list[int] | None:
    """Widths of a table's columns, each a header and cells. None: not even words and short cells fit."""
    least, most = [_least_width(column) for column in columns], [max(map(len, column)) for column in columns]
    rest = available - sum(least)
    if rest < 0:
        return None
    wanted = sum(most) - sum(least)
    share = min(1.0, rest / wanted) if wanted else 1.0
    return [low + int((high - low) * share) for low, high in zip(least, most, strict=True)]


def _least_width(column: Sequence[str]) -> int:
    """The longest word, or cell if it is short. Only longer words are cut."""
    header, *cells = column
    parts = [part for cell in cells for part in ([cell] if len(cell) <= MAX_UNWRAPPED else cell.split())]
    return min(MAX_WORD, max(map(len, [*header.split(), *parts]), default=0))


def _is_numeric(rows: Rows, name: str) -> bool:
    return bool(rows) and all(isinstance(r.get(name), int | float | None) for r in rows)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)
