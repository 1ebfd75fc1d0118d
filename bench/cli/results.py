"""Commands that print or draw results: ls, show, figure, scaling, report."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.console import fail, note, print_json, print_line, print_lines, print_records, print_rows, require_format
from bench.cli.flags import AllResults, Figure, Json, Results, SignedBy, checked, figure_callback
from bench.system.files import require_folder
from methods.errors import UserError


def ls(
    what: Annotated[str, typer.Argument(help="methods, models, data, tasks, measures, quantizers, recipes or runs.")],
    long: Annotated[
        bool,
        typer.Option("--long", help="Also list fields with their defaults, and what each method costs on a 7B model."),
    ] = False,
    results: Results = None,
    json: Json = False,
) -> None:
    """List methods, models, data, tasks, records and more."""
    from bench.cli import listing

    print_rows(listing.rows(what, long, results), json)


def show(
    record: Annotated[str, typer.Argument(help="The first digits of a record's key; bench ls runs lists them.")],
    results: Results = None,
    json: Json = False,
) -> None:
    """Print one record: its numbers, and what made them.

    One that failed has its traceback. --json prints all fields.
    """
    from bench.cli import record_facts
    from bench.results.store import RESULTS, ReadOnlyStore

    one = ReadOnlyStore(results or RESULTS).find(record)
    if json:
        print_json(one.model_dump_json(indent=1))
        return
    print_rows(record_facts.rows(one), as_json=False)
    if one.traceback:
        print_lines(one.traceback)


def figure(
    record: Annotated[
        str, typer.Argument(help="The first digits of a key: the `pattern` record of a method that trains.")
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Figure to write: .svg, .png or .pdf.", callback=figure_callback("--out")),
    ],
    results: Results = None,
) -> None:
    """Draw the curves of a training over its steps.

    Losses, S (the share of |w| that the mask keeps), mask flips, learning rate and alpha.
    """
    from bench.reporting import figures
    from bench.results.store import RESULTS, ReadOnlyStore

    print_line(figures.draw_training(ReadOnlyStore(results or RESULTS).find(record), out))


def scaling(
    method: Annotated[str, typer.Option(help="The sparse method, as in its table.")] = "cast",
    control: Annotated[str, typer.Option(help="The dense method that it is compared with.")] = "dense-ft",
    out: Figure = None,
    results: Results = None,
    json: Json = False,
) -> None:
    """Fit a power law to the cost of sparsity.

    The cost is the loss above a control, over model size and training tokens. The largest run is not fitted, but predicted.
    """
    from bench.compare import scaling_law as law
    from bench.reporting import figures
    from bench.results.store import RESULTS

    points = law.read(results or RESULTS, method, control)
    holdout, predicted = law.predict_holdout(points)
    fit = law.fit([p for p in points if p is not holdout])
    print_rows(law.to_rows(fit, holdout, predicted), json)
    if out:
        print_line(figures.draw_scaling(fit, out, method, control, holdout))


def report(
    results: AllResults = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format", help="Print tables instead, as table, json, csv or md [default folder: results/local]."
        ),
    ] = None,
    equal_bytes: Annotated[
        bool,
        typer.Option("--equal-bytes", help="Print each sparse row with the dense rows of about the same size."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder to write [default: reports].",
            callback=checked(partial(require_folder, new=False)),
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; exit code 1 if the files in the folder are out of date."),
    ] = False,
    signed_by: SignedBy = None,
) -> None:
    """Write the leaderboard, or print tables of records.

    The leaderboard is an HTML page, Markdown, CSV, LaTeX and figures. It has the newest record of each identity, and
    numbers from papers (results/published). With --results or --format, and without --out and --check, tables are printed
    instead. --results also takes folders of lm-eval, lighteval, EvalScope and Every Eval Ever.
    """
    from bench.compare import elsewhere

    files = bool(out or check or signed_by)
    if files and (format_ or equal_bytes):
        raise UserError(
            "--format and --equal-bytes print tables, --out, --check and --signed-by are for files: use options of one kind"
        )
    with ExitStack() as stack:
        opened = [stack.enter_context(elsewhere.as_results(folder)) for folder in results or ()]
        if not files and (format_ or equal_bytes or results):
            _print_folders(opened, format_ or "table", equal_bytes)
        else:
            _write_leaderboard(opened, out, check, signed_by)


def _write_leaderboard(results: list[Path], out: Path | None, check: bool, signed_by: Path | None) -> None:
    from bench.reporting import leaderboard
    from bench.results.store import RESULTS

    folder = out or leaderboard.FOLDER
    files = leaderboard.build(results or leaderboard.results_folders(), leaderboard.PUBLISHED, signed_by)
    if not check:
        for path in leaderboard.write(files, folder):
            print_line(path)
        if not results and leaderboard.leaves_local_out():
            note(f"{RESULTS} is left out: bench report --results {RESULTS} --out DIR writes a page of it")
        return
    if stale := leaderboard.find_stale(files, folder):
        fail(f"out of date: {', '.join(map(str, stale))}: run bench report" + (f" --out {out}" if out else ""), 1)


def _print_folders(results: list[Path], format_: str, equal_bytes: bool) -> None:
    from bench.results.rows import newest
    from bench.results.store import RESULTS, ReadOnlyStore

    require_format(format_, equal_bytes)
    for folder in results or [RESULTS]:
        store = ReadOnlyStore(folder)
        records = newest(store.verified())
        for line in store.damaged:
            note(f"{line}: left out")
        if not records and not store.damaged:
            raise UserError(f"results folder {str(folder)!r} has no records: name another, or run bench run first")
        print_records(records, format_, equal_bytes)
