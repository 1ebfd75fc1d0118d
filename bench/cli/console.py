"""Print rows, tables and errors."""

from __future__ import annotations

import json
import math
import sys
import textwrap
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from bench.catalog import registry
from bench.cli.flags import ALL_COLUMNS
from bench.system.files import write_file
from bench.system.terminal import raw_stream, width_of
from bench.system.text import escape_markdown, one_line, printable_json
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from bench.comparing.result_set import ResultSet
    from bench.reporting.table import TextTable

OUTPUT_FORMATS = ("table", "json", "csv", "md")

PIPE_WIDTH = 120
"""Columns of a table in a file or a pipe."""
LARGE = 1e5
"""Number from which a table has no decimals."""

Rows = Sequence[dict[str, Any]]


def require_format(format_: str, equal_bytes: bool) -> None:
    """Raise UserError if the format is unknown, or cannot be had with `equal_bytes`."""
    if format_ not in OUTPUT_FORMATS:
        raise UserError(f"unknown format {format_!r}: use one of {', '.join(OUTPUT_FORMATS)}")
    if equal_bytes and format_ not in ("table", "md"):
        raise UserError(
            f"--equal-bytes does not work with --format {format_}: use --format table or md"
        )


def print_records(
    results: ResultSet,
    format_: str,
    equal_bytes: bool = False,
    signers: Mapping[str, str] | None = None,
    columns: Sequence[str] = (),
) -> None:
    """Print records as tables, or in another format. Raise UserError if `equal_bytes` finds no
    rows.

    format_: one that `require_format` accepts. equal_bytes: sparse rows with dense rows of about
    the same size. signers: who signed each record, for one more column. columns: those of a short
    table, by default bench.reporting.overview.COLUMNS; ALL_COLUMNS for every column.
    """
    from bench.reporting import derived_cells
    from bench.reporting import equal_bytes as at_equal_bytes
    from bench.reporting.table import all_notes, text_tables, to_markdown
    from bench.results.rows import shown_rows, to_csv, to_json

    records = list(results.records)

    if format_ == "json":
        print_json(to_json(records, signers))
        return
    if format_ == "csv":
        print_lines(to_csv(shown_rows(records, signers)))
        return
    if format_ == "table" and not equal_bytes and list(columns) != [ALL_COLUMNS]:
        _print_overviews(results, columns, signers)
        return
    if equal_bytes:
        tables = at_equal_bytes.text_tables(records)
    else:
        tables = text_tables(records, signers, derived_cells.extra_columns(records))
    if equal_bytes and not tables:
        raise UserError(
            "no sparse row has a dense row of similar size: add dense quantized rows, for example "
            "with bench run --dtype bfloat16 --quant none,int8,int3-rtn,int4-gptq"
        )
    if format_ == "md":
        print_lines(
            "\n".join(f"**{escape_markdown(t.title)}**\n\n{to_markdown(t)}" for t in tables)
        )
        return
    for i, table in enumerate(tables):
        if i:
            print_line()
        print_text_table(table, all_notes(table))


def print_text_table(table: TextTable, notes: Sequence[str], width: int = PIPE_WIDTH) -> None:
    """Print a table of records. width: columns of a file or a pipe."""
    from bench.cli.tables import print_table

    right = [not table.is_worded(header) for header in table.headers]
    print_table(
        table.headers,
        table.lines,
        right=right,
        title=table.title,
        notes=notes,
        width=width,
        narrow=True,
    )


def _print_overviews(
    results: ResultSet, columns: Sequence[str], signers: Mapping[str, str] | None
) -> None:
    """Print the short table of each model and protocol, and what its paired tests say."""
    from bench.reporting import board, derived_cells, overview
    from bench.reporting.table import all_notes, text_tables
    from bench.system.grouping import group_by

    printed = 0
    for model, records in group_by(results.records, lambda r: r.identity.model).items():
        for one in board.boards_of(model, results.only(model, records)):
            made = overview.make(one, columns, signers)
            if printed:
                print_line()
            printed += 1
            if made is None:
                own = list(one.records.values())
                for table in text_tables(own, signers, derived_cells.extra_columns(own)):
                    print_text_table(table, all_notes(table))
                continue
            print_text_table(made.table, made.table.notes)
            for sentence in made.verdicts:
                print_wrapped(sentence)


def print_wrapped(sentence: str, width: int = PIPE_WIDTH) -> None:
    """Print a sentence, broken between words at the width of the terminal. width: of a pipe."""
    width = width_of(sys.stdout) or width
    print_lines(
        textwrap.fill(
            one_line(sentence),
            width,
            subsequent_indent="  ",
            break_on_hyphens=False,
            break_long_words=False,
        )
    )


def fail(sentence: str, code: int) -> NoReturn:
    """Print an error and exit."""
    note(sentence)
    raise typer.Exit(code)


def note(sentence: object) -> None:
    """Print a sentence of this program to standard error."""
    print_line(f"bench: {sentence}", err=True)


def note_ignored(kind: str, named: Container[str]) -> None:
    """Say which of the named plug-ins are not used, and why. kind: section of the catalog."""
    for name, why in registry.ignored(kind):
        if name in named:
            note(f"plug-in {name} is ignored: {why}")


def print_line(text: object = "", *, err: bool = False) -> None:
    """Print one line. err: to standard error."""
    print_lines(one_line(text), err=err)


def print_lines(text: str, *, err: bool = False) -> None:
    """Print text of several lines: a log, a traceback, Markdown or CSV."""
    stream = sys.stderr if err else sys.stdout
    print(text.removesuffix("\n"), file=stream, flush=True)


def write_output(path: Path, text: str) -> None:
    """Write text to a file that `flags.file_option` has checked, or print it if the file is "-"."""
    if str(path) == "-":
        print_lines(text)
        return
    write_file(path, text)


def print_commands(text: str, *, err: bool = False) -> None:
    """Print workflow commands for GitHub, which `bench.comparing.ci` has escaped."""
    stream = sys.stderr if err else sys.stdout
    raw_stream(stream).write(text)


def print_json(text: str) -> None:
    """Print JSON."""
    print(printable_json(text), flush=True)


def print_rows(rows: Rows, as_json: bool, width: int | None = None, title: str = "") -> None:
    """Print rows as a table, or as JSON. width, title: as for `print_table`."""
    if as_json:
        print_json(json.dumps(list(rows), indent=1))
        return
    from bench.cli.tables import print_table

    # A row without numbers has fewer columns. Those of the longest row come first.
    names: dict[str, None] = {}
    for row in sorted(rows, key=len, reverse=True):
        names |= dict.fromkeys(row)
    columns = {}
    for name in names or ("nothing here",):
        columns[name] = [row.get(name) for row in rows]
    headers = [name.replace("about_", "~").replace("_", " ") for name in columns]
    right = [bool(rows) and _are_numbers(values) for values in columns.values()]
    lines = [list(map(_text, line)) for line in zip(*columns.values(), strict=True)]
    print_table(headers, lines, right, width=width, title=title)


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float | None) for value in values)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, float) and math.isfinite(value):
        # JSON has all digits.
        return f"{value:,.0f}" if abs(value) >= LARGE else str(float(f"{value:.6g}"))
    return f"{value:,}" if type(value) is int else str(value)
