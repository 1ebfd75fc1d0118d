"""Print rows, tables and errors."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from methods.errors import UserError

if TYPE_CHECKING:
    from bench.results.record import Record

Rows = Sequence[dict[str, Any]]


def print_records(records: list[Record], format_: str, equal_bytes: bool = False) -> None:
    from bench.report import equal_bits
    from bench.report.table import markdown, rich_table, text_tables
    from bench.results.rows import to_csv, to_json
    from bench.system.text import escape_markdown

    if equal_bytes and format_ not in ("table", "md"):
        raise UserError(f"--equal-bytes is a table: take --format table or md, not {format_}")
    grids = equal_bits.grids if equal_bytes else text_tables
    if equal_bytes and not grids(records):
        raise UserError(
            "no sparse row here has a dense one of about its bits per weight: measure some, for example "
            "bench run --dtype bfloat16 --quant none,int8,int3-rtn,int4-gptq"
        )
    if format_ == "json":
        typer.echo(to_json(records))
    elif format_ == "csv":
        typer.echo(to_csv(records), nl=False)
    elif format_ == "md":
        typer.echo("\n".join(f"**{escape_markdown(g.title)}**\n\n{markdown(g)}" for g in grids(records)), nl=False)
    elif format_ == "table":
        from rich.console import Console

        console = Console() if sys.stdout.isatty() else Console(width=200)
        for grid in grids(records):
            console.print(rich_table(grid))
    else:
        raise UserError(f"format {format_!r} is not one of table, json, csv, md")


def fail(sentence: str, code: int) -> NoReturn:
    typer.echo(f"bench: {sentence}", err=True)
    raise typer.Exit(code)


def print_rows(rows: Rows, as_json: bool) -> None:
    """Print rows as a table, or as JSON."""
    if as_json:
        import json

        print(json.dumps(list(rows), indent=1))
        return
    import sys

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for i, name in enumerate(rows[0] if rows else ("nothing here",)):
        table.add_column(name.replace("_", " "), overflow="fold", no_wrap=i == 0)
        table.columns[i].justify = "right" if _numeric(rows, name) else "left"
    for row in rows:
        table.add_row(*(Text(_text(v)) for v in row.values()))
    (Console() if sys.stdout.isatty() else Console(width=200)).print(table)


def _numeric(rows: Rows, name: str) -> bool:
    return bool(rows) and all(isinstance(r.get(name), int | float | None) for r in rows)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) and value > 9999 else str(value)
