"""Print rows, tables and errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import typer

from bench.system.terminal import make_console, raw_stream, shorten, width_of
from bench.system.text import escape_markdown, printable, printable_json, printable_lines
from methods.errors import UserError

if TYPE_CHECKING:
    from bench.results.record import Record

FORMATS = ("table", "json", "csv", "md")
MAX_CELL = 2000
"""Longer cells are cut in the middle, in columns of the terminal."""

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
    from bench.reporting import equal_bits
    from bench.reporting.table import text_tables, to_markdown
    from bench.results.rows import IDENTITY, to_csv, to_json

    require_format(format_, equal_bytes)
    if format_ == "json":
        print_json(to_json(records))
        return
    if format_ == "csv":
        print_lines(to_csv(records))
        return
    tables = equal_bits.text_tables(records) if equal_bytes else text_tables(records)
    if equal_bytes and not tables:
        raise UserError(
            "no sparse row has a dense row of similar size: add dense quantized rows, for example with "
            "bench run --dtype bfloat16 --quant none,int8,int3-rtn,int4-gptq"
        )
    if format_ == "md":
        print_lines("\n".join(f"**{escape_markdown(t.title)}**\n\n{to_markdown(t)}" for t in tables))
        return
    for i, table in enumerate(tables):
        if i:
            print_line()
        right = [header not in IDENTITY for header in table.headers]
        print_table(table.headers, table.lines, right=right, title=table.title)


def fail(sentence: str, code: int) -> NoReturn:
    """Print an error and exit."""
    note(sentence)
    raise typer.Exit(code)


def note(sentence: object) -> None:
    """Print a sentence to standard error, as the program's own."""
    print_line(f"bench: {sentence}", err=True)


def print_line(text: object = "", *, err: bool = False) -> None:
    """Print one line, whatever is in the text. err: to standard error."""
    print_lines(printable(str(text)), err=err)


def print_lines(text: str, *, err: bool = False) -> None:
    """Print text that has lines of its own: a log, a traceback, Markdown or CSV."""
    print(printable_lines(text.removesuffix("\n")), file=sys.stderr if err else sys.stdout, flush=True)


def print_commands(text: str, *, err: bool = False) -> None:
    """Print workflow commands for GitHub, from bench.compare.ci, which are printable."""
    raw_stream(sys.stderr if err else sys.stdout).write(text)


def print_json(text: str) -> None:
    """Print JSON."""
    print(printable_json(text), flush=True)


def print_rows(rows: Rows, as_json: bool) -> None:
    """Print rows as a table, or as JSON."""
    if as_json:
        print_json(json.dumps(list(rows), indent=1))
        return
    names = list(rows[0]) if rows else ["nothing here"]
    right = [_is_numeric(rows, name) for name in names]
    headers = [name.replace("about_", "~").replace("_", " ") for name in names]
    print_table(headers, [[_text(row[n]) for n in names] for row in rows], right=right)


class Cell(NamedTuple):
    """A cell with a color."""

    text: str
    color: str = ""


def print_table(
    headers: Sequence[str], lines: Sequence[Sequence[str | Cell]], right: Sequence[bool], title: str = ""
) -> None:
    """Print a table. Columns that do not fit the terminal move to a second line of each row; a file is as wide as needed.

    A column in which no line has text is left out. right: which columns are aligned to the right.
    """
    from rich.text import Text

    from bench.cli import layout

    cells = [[Cell(cell) if isinstance(cell, str) else cell for cell in line] for line in lines]
    filled = [i for i in range(len(headers)) if not cells or any(line[i].text for line in cells)]
    cells = [[line[i] for i in filled] for line in cells]
    heads, right = [printable(headers[i]) for i in filled], [right[i] for i in filled]
    texts = [[shorten(printable(cell.text), MAX_CELL) for cell in line] for line in cells]
    columns = [
        layout.Column(head, [t[i] for t in texts], is_right)
        for i, (head, is_right) in enumerate(zip(heads, right, strict=True))
    ]
    placed = layout.place(columns, width_of(sys.stdout))
    out = [Text(printable(title), "bold")] * bool(title)
    for pieces in layout.lay_out(heads, columns, placed, at_bottom=True):
        out.append(Text("".join(p.text for p in pieces), "bold"))
    out.append(Text("─" * layout.total_width(placed), "dim"))
    for line, row in zip(cells, texts, strict=True):
        for pieces in layout.lay_out(row, columns, placed):
            styled = [(p.text, "" if p.column is None else line[p.column].color) for p in pieces]
            out.append(Text.assemble(*styled))
    for i, text in enumerate(out):
        text.rstrip()
        if text.plain != (shown := printable_lines(text.plain)):  # a command for GitHub's runner
            out[i] = Text(shown)
    make_console(sys.stdout).print(Text("\n").join(out))


def _is_numeric(rows: Rows, name: str) -> bool:
    return bool(rows) and all(isinstance(r.get(name), int | float | None) for r in rows)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if type(value) is int else str(value)
