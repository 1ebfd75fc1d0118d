"""`bench compare`. It imports what it needs when it runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.console import (
    PIPE_WIDTH,
    note,
    print_json,
    print_line,
    print_wrapped,
    write_output,
)
from bench.cli.flags import ALL_COLUMNS, Json, Results, file_option, split_list
from bench.system.suggest import describe_unknown, shorten
from bench.system.text import amount
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from bench.comparing.result_set import ResultSet
    from bench.comparing.verdict import Comparison, Row

Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="TOML file with alpha, [margins], [tolerances], [seed_noise]."
    ),
]
Md = Annotated[
    Path | None, file_option("--md", "Write Markdown to this file; - is stdout.", stdout=True)
]

COMPARED = ("mark", "row", "metric", "before", "after", "change", "p", "verdict", "about")
"""All columns of a comparison."""
DEFAULT_COLUMNS = ("row", "before", "after", "change", "verdict")
MARK = ""
"""Header of the column of marks."""


def compare(
    a: Annotated[
        str,
        typer.Argument(
            help="Before: a results folder (ours, or another harness's), baseline, commit, method "
            "or record."
        ),
    ],
    b: Annotated[str, typer.Argument(help="After: a folder, baseline, commit, method or record.")],
    results: Results = None,
    config: Config = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Columns: mark, row, metric, before, after, change, p, verdict, about, or all.",
        ),
    ] = None,
    md: Md = None,
    json: Json = False,
) -> None:
    """Compare two result sets: what changed, and is it noise?

    Numbers that did not change are only counted, unless --columns is given. Marks: - worse, +
    better, ~ inconclusive, x not comparable, ! failed or missing. Each interval holds on its own;
    p values are adjusted by Holm's method.
    """
    from bench.comparing import gate_settings, render, result_arguments, verdict
    from bench.results.store import RESULTS

    require_one_output(json, md)
    shown = _split_columns(columns)
    if results and Path(a).is_dir() and Path(b).is_dir():
        raise UserError(f"--results {shorten(results)} has no effect on two folders: leave it out")
    ignore: tuple[str, ...] = ()
    harness = pair_harness(a, b)
    if harness:
        before, after = harness
    else:
        before, after, ignore = result_arguments.resolve_both(a, b, results or RESULTS)
    compare_settings = gate_settings.read(config, before.metrics | after.metrics)
    comparison = verdict.compare(
        before,
        after,
        compare_settings,
        ignore=ignore,
        exploratory=True,
        every_metric=harness is not None,
    )
    headline = f"{a} → {b}: {render.describe_counts(comparison)}"
    print_comparison(comparison, json, md, headline, columns=shown or DEFAULT_COLUMNS)
    note(headline)
    if not json and str(md) != "-":
        for sentence in render.describe_order(comparison, a, b):
            print_wrapped(sentence)
        if not harness:
            given = f" --results {shlex.quote(str(results))}" if results else ""
            command = f"bench figure {shlex.quote(a)} {shlex.quote(b)}{given} --out difference.svg"
            print_line(f"Next: {command}")


def pair_harness(a: str, b: str, *, whole: bool = False) -> tuple[ResultSet, ResultSet] | None:
    """Pair two folders of other harnesses, and say what cannot be paired. None: neither is one.
    whole: see foreign.ForeignResults.pair."""
    from bench.comparing import foreign

    readers = {text: foreign.find_reader(Path(text)) for text in (a, b)}
    known = [text for text, reader in readers.items() if reader]
    reader = readers[a] or readers[b]
    if reader is None:
        return None
    if len(known) < len(readers):
        other = b if known[0] == a else a
        raise UserError(
            f"{known[0]!r} has results of another harness and {other!r} has none: name two such "
            "folders"
        )
    before, after, notes = reader.pair(Path(a), Path(b), whole=whole)
    for line in notes:
        note(line)
    return before, after


def require_one_output(json: bool, md: Path | None, junit: Path | None = None) -> None:
    """Raise UserError if two documents would be written to standard output."""
    flags = {"--json": json, "--md -": str(md) == "-", "--junit -": str(junit) == "-"}
    asked = [flag for flag, is_asked in flags.items() if is_asked]
    if len(asked) > 1:
        raise UserError(
            f"{' and '.join(asked)} would both be printed: give one of them a file, or leave it out"
        )


def _split_columns(text: str | None) -> tuple[str, ...]:
    """Return the names after --columns of a comparison, or raise UserError for an unknown one."""
    if text is None:
        return ()
    names = split_list("columns", text)
    if names == [ALL_COLUMNS]:
        return COMPARED
    for name in names:
        if name not in COMPARED:
            raise UserError(describe_unknown("column", name, COMPARED, ", or all"))
    return tuple(names)


def print_comparison(
    comparison: Comparison,
    json: bool,
    md: Path | None,
    headline: str,
    *,
    table: bool = True,
    columns: Sequence[str] = COMPARED,
) -> None:
    """Write a comparison as Markdown or JSON, else print it. table: False prints no table."""
    from bench.comparing import render

    if md:
        write_output(md, render.to_markdown(comparison, headline))
    if json:
        print_json(render.to_json(comparison))
    elif table and str(md) != "-":
        _print_verdicts(comparison.rows, columns or COMPARED)


def _print_verdicts(rows: Sequence[Row], columns: Sequence[str]) -> None:
    from bench.cli.tables import StyledCell, print_table
    from bench.comparing.render import COLORS, cells, is_same, short_cells
    from bench.comparing.verdict import FAILING_VERDICTS

    short = columns == DEFAULT_COLUMNS
    listed = [row for row in rows if not (short and is_same(row))]
    names = [MARK if name == "mark" else name for name in columns]
    headers = names if listed else ["nothing differs" if rows else "nothing to compare"]
    right = [header in ("before", "after", "change", "p") for header in headers]
    models = {record.identity.model for row in rows for record in row.records}
    model = models.pop() if len(models) == 1 else ""
    lines = []
    for row in listed:
        color = COLORS.get(row.verdict, "")
        own = short_cells(row, model) if short else cells(row)
        line = []
        for name in names:
            line.append(StyledCell(own[name], color if name in (MARK, "verdict") else ""))
        lines.append(line)
    print_table(headers, lines, right, width=PIPE_WIDTH if short else None, narrow=short)
    for row in listed:
        if short and row.verdict in (*FAILING_VERDICTS, "NOT_COMPARABLE") and not row.estimate:
            print_wrapped(f"{row.name} {row.metric}: {row.reason}")
    if len(listed) < len(rows):
        print_wrapped(f"{amount(len(rows) - len(listed), 'other number')} did not change.")
