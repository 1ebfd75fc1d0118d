"""`bench compare`. It imports what it needs when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.console import note, print_json, write_output
from bench.cli.flags import Json, Results, file_option
from bench.compare import gate_settings
from bench.system.suggest import shorten
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from bench.compare.result_set import ResultSet
    from bench.compare.verdict import Comparison, Row

Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="TOML file with alpha, [margins], [tolerances], [seed_noise]."
    ),
]
Md = Annotated[
    Path | None, file_option("--md", "Write Markdown to this file; - is stdout.", stdout=True)
]


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
    md: Md = None,
    json: Json = False,
) -> None:
    """Compare two result sets: what changed, and is it noise?

    Marks: - worse, + better, ~ inconclusive, x not comparable, ! failed or missing. Each interval
    holds on its own; p values are adjusted by Holm's method.
    """
    from bench.compare import render, result_arguments, verdict
    from bench.results.store import RESULTS

    require_one_output(json, md)
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
    print_comparison(comparison, json, md, headline)
    note(headline)


def pair_harness(a: str, b: str, *, whole: bool = False) -> tuple[ResultSet, ResultSet] | None:
    """Pair two folders of other harnesses, and say what cannot be paired. None: neither is one.
    whole: see foreign.ForeignResults.pair."""
    from bench.compare import foreign

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


def print_comparison(
    comparison: Comparison, json: bool, md: Path | None, headline: str, *, table: bool = True
) -> None:
    """Write a comparison as Markdown or JSON, else print it. table: False prints no table."""
    from bench.compare import render

    if md:
        write_output(md, render.to_markdown(comparison, headline))
    if json:
        print_json(render.to_json(comparison))
    elif table and str(md) != "-":
        _print_verdicts(comparison.rows)


def _print_verdicts(rows: Sequence[Row]) -> None:
    from bench.cli.tables import StyledCell, print_table
    from bench.compare.render import COLORS, cells

    headers = list(cells(rows[0])) if rows else ["nothing to compare"]
    right = [header in ("before", "after", "change", "p") for header in headers]
    lines = []
    for row in rows:
        color = COLORS.get(row.verdict, "")
        colors = {"": color, "verdict": color}
        line = [StyledCell(cell, colors.get(name, "")) for name, cell in cells(row).items()]
        lines.append(line)
    print_table(headers, lines, right)
