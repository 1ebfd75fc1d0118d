"""Print rows, tables and errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from methods.errors import UserError

if TYPE_CHECKING:
    import rich.console

    from bench.results.record import Record

FORMATS = ("table", "json", "csv", "md")

Rows = Sequence[dict[str, Any]]


def print_records(records: list[Record], format_: str, equal_bytes: bool = False) -> None:
    """Print records as tables, or in another format. equal_bytes: sparse rows with dense ones of about the same size.

    Raises:
        UserError: an unknown format, or no rows of about the same size.
    """
    from bench.report import equal_bits
    from bench.report.table import text_tables, to_markdown, to_rich
    from bench.results.rows import to_csv, to_json
    from bench.system.text import plain

    if format_ not in FORMATS:
        raise UserError(f"unknown format {format_!r}: use one of {', '.join(FORMATS)}")
    if equal_bytes and format_ not in ("table", "md"):
        raise UserError(f"--equal-bytes does not work with --format {format_}: use --format table or md")
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
        typer.echo("\n".join(f"**{plain(t.title)}**\n\n{to_markdown(t)}" for t in tables), nl=False)
        return
    for table in tables:
        console().print(to_rich(table))


def fail(sentence: str, code: int) -> NoReturn:
    """Print an error and exit."""
    typer.echo(f"bench: {sentence}", err=True)
    raise typer.Exit(code)


def print_rows(rows: Rows, as_json: bool) -> None:
    """Print rows as a table, or as JSON."""
    if as_json:
        print(json.dumps(list(rows), indent=1))
        return
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for i, name in enumerate(rows[0] if rows else ("nothing here",)):
        table.add_column(name.replace("_", " "), overflow="fold", no_wrap=i == 0)
        table.columns[i].justify = "right" if _is_numeric(rows, name) else "left"
    for row in rows:
        table.add_row(*(Text(_text(v)) for v in row.values()))
    console().print(table)


def console() -> rich.console.Console:
    """As wide as the terminal; wide enough for most tables if the output goes to a file."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=200)


def _is_numeric(rows: Rows, name: str) -> bool:
    return bool(rows) and all(isinstance(r.get(name), int | float | None) for r in rows)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)
