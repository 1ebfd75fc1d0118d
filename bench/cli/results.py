"""Commands that show results: ls, show, figure, scaling, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.console import fail, print_records, print_rows
from bench.cli.flags import Json, Results
from methods.errors import UserError


def ls(
    what: Annotated[str, typer.Argument(help="methods, models, data, tasks, measures, quantizers, recipes or runs.")],
    long: Annotated[
        bool, typer.Option("--long", help="Fields and their defaults too; of methods, what each costs on a 7B model.")
    ] = False,
    results: Results = None,
    json: Json = False,
) -> None:
    """List what there is."""
    from bench.cli import listing

    print_rows(listing.rows(what, long, results), json)


def show(
    record: Annotated[str, typer.Argument(help="A record's name or the beginning of it.")], results: Results = None
) -> None:
    """Print one record, whole."""
    from bench.results.store import RESULTS, Store

    found = Store(results or RESULTS, write=False).find(record)
    typer.echo(found.model_dump_json(indent=1, exclude={"traceback"}))
    if found.traceback:
        typer.echo(found.traceback)


def figure(
    record: Annotated[
        str, typer.Argument(help="The `pattern` record of a method that trains, or the beginning of it.")
    ],
    out: Annotated[Path, typer.Option(help="File to write: .svg, .png or .pdf.")],
    results: Results = None,
) -> None:
    """Draw how a training went: losses, S, mask flips, learning rate and alpha over steps."""
    from bench.report import figures
    from bench.results.store import RESULTS, Store

    typer.echo(figures.draw_training(Store(results or RESULTS, write=False).find(record), out))


def scaling(
    method: Annotated[str, typer.Option(help="The sparse row, as in its table.")] = "cast",
    control: Annotated[str, typer.Option(help="The row it is measured against.")] = "dense-ft",
    out: Annotated[Path | None, typer.Option(help="Figure to draw: .svg, .png or .pdf.")] = None,
    results: Results = None,
    json: Json = False,
) -> None:
    """Fit how what sparsity costs falls with model size and training tokens, and predict the largest run from the rest."""
    from bench.compare import scaling_law as law
    from bench.report import figures
    from bench.results.store import RESULTS

    points = law.read(results or RESULTS, method, control)
    held, predicted = law.predict_holdout(points)
    fitted = law.fit([p for p in points if p is not held])
    print_rows(law.to_rows(fitted, held, predicted), json)
    if out:
        typer.echo(figures.draw_scaling(fitted, out, method, control, held))


def report(
    results: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of records, several by repeating it [default: every one in results/]."),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option("--format", help="Print instead: table, json, csv or md [default folder: results/local]."),
    ] = None,
    equal_bytes: Annotated[
        bool,
        typer.Option("--equal-bytes", help="Print sparse rows beside dense ones of about as many bits per weight."),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder to write [default: reports].")] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; exit code 1 if the folder's files are not what would be written."),
    ] = False,
) -> None:
    """Write the leaderboard: a page, Markdown, CSV, LaTeX and figures. With --results or --format alone, print tables.

    The newest record of every identity, and what papers report (results/published).
    """
    if out or check:
        if format_ or equal_bytes:
            raise UserError("--format and --equal-bytes print, --out and --check are about files: leave one kind out")
    elif format_ or equal_bytes or results:
        return _print_folders(results, format_ or "table", equal_bytes)
    from bench.report import leaderboard

    folder = out or leaderboard.FOLDER
    made = leaderboard.build(results or leaderboard.results_folders(), leaderboard.PUBLISHED)
    if not check:
        return typer.echo("\n".join(map(str, leaderboard.write(made, folder))))
    if stale := leaderboard.find_stale(made, folder):
        fail(f"stale: {', '.join(map(str, stale))}; run bench report" + (f" --out {out}" if out else ""), 1)


def _print_folders(results: list[Path] | None, format_: str, equal_bytes: bool) -> None:
    from bench.results.rows import newest
    from bench.results.store import RESULTS, Store

    for folder in results or [RESULTS]:
        store = Store(folder, write=False)
        records = newest(store)
        for line in store.moved:
            typer.echo(f"bench: {line}", err=True)
        print_records(records, format_, equal_bytes)
