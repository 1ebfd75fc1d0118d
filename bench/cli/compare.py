"""`bench compare`, `gate`, `baseline`, `history`, `merge` and `migrate`. Each imports what it needs when it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.console import print_rows
from bench.cli.flags import Json, Results
from methods.errors import UserError

if TYPE_CHECKING:
    from bench.compare.result_set import ResultSet
    from bench.compare.settings import CompareSettings
    from bench.compare.verdict import Comparison

Config = Annotated[Path | None, typer.Option(help="TOML file with alpha, [margins], [tolerances] and [seed_noise].")]
Md = Annotated[Path | None, typer.Option(help="Write Markdown to this file; - is stdout.")]
Folder = Annotated[Path | None, typer.Option("--dir", help="Folder of baselines [default: results/baselines].")]

baseline_app = typer.Typer(
    help="Results kept as files, for gates to compare with.", no_args_is_help=True, rich_markup_mode=None
)


def compare(
    a: Annotated[str, typer.Argument(help="Before: results folder, baseline, commit, method or record.")],
    b: Annotated[str, typer.Argument(help="After.")],
    results: Results = None,
    config: Config = None,
    md: Md = None,
    json: Json = False,
) -> None:
    """Two runs, commits, methods or artifacts, number by number: what changed, and was it noise?

    + is worse, - better, ~ undecided, x not comparable, ! failed or missing. Each interval holds on its own; p values
    are Benjamini and Hochberg's.
    """
    from bench.compare import render, resolve, settings, verdict
    from bench.results.store import RESULTS

    before, after, without = resolve.resolve_both(a, b, results or RESULTS)
    judged = verdict.compare(before, after, settings.read(config), without=without, exploratory=True)
    headline = f"{a} → {b}: {render.describe_counts(judged)}"
    _print_comparison(judged, json, md, headline)
    typer.echo(f"bench: {headline}", err=True)


def gate(
    baseline: Annotated[str, typer.Option(help="Results folder, or a file or name of bench baseline set.")],
    results: Results = None,
    config: Config = None,
    strict: Annotated[bool, typer.Option("--strict", help="What could not be decided fails, too.")] = False,
    rerun_suspects: Annotated[
        bool, typer.Option("--rerun-suspects", help="Measure what looks worse once more, in a fresh process.")
    ] = False,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML to this file.")] = None,
    github: Annotated[bool, typer.Option("--github", help="Annotations for GitHub on stdout.")] = False,
    md: Md = None,
    json: Json = False,
) -> None:
    """Did anything get worse than its margin, beyond noise? Exit code 0: no; 1: yes; 2: it could not be judged."""
    from bench.compare import ci, render, settings
    from bench.compare.escape import printable
    from bench.compare.resolve import read
    from bench.compare.verdict import compare
    from bench.results.store import RESULTS

    asked = settings.read(config, strict=strict or None)
    before, after = _read_baseline(baseline), read(results or RESULTS)
    judged = compare(before, after, asked)
    if rerun_suspects and judged.failed:
        judged = _rerun_suspects(before, after, asked, judged)
    if junit:
        _write(junit, ci.to_junit(judged))
    _print_comparison(judged, json, md, f"bench gate {render.describe_outcome(judged)}")
    if github:
        typer.echo(ci.to_github(judged), nl=False, err=json)
    if all(row.verdict == "NOT_COMPARABLE" for row in judged.rows):
        raise UserError(
            f"baseline {baseline!r} and {after.name!r} have nothing that can be judged"
            + (f" ({printable(judged.rows[0].reason)})" if judged.rows else "")
            + ": bench baseline show lists what it has"
        )
    typer.echo(f"bench: {render.describe_outcome(judged)}", err=True)
    if judged.failed:
        raise typer.Exit(1)


def _rerun_suspects(before: ResultSet, after: ResultSet, asked: CompareSettings, judged: Comparison) -> Comparison:
    from bench.compare import verdict
    from bench.compare.suspects import rerun
    from bench.run.rerun import measure
    from bench.system.cache import temporary_folder

    def note(text: str) -> None:
        typer.echo(f"bench: {text}", err=True)

    with temporary_folder("again-") as room:
        return verdict.compare(before, rerun(after, judged, Path(room), measure, note), asked)


def history(
    metric: Annotated[str, typer.Argument(help="As in a record's readings.")] = "perplexity",
    row: Annotated[str, typer.Option(help="Only rows with this in their name, as shown.")] = "",
    out: Annotated[Path | None, typer.Option(help="Figure to draw: .svg, .png or .pdf.")] = None,
    results: Results = None,
    json: Json = False,
) -> None:
    """A metric over commits: its steps beyond noise, and where the machine or a library changed."""
    from bench.compare import history as over_time
    from bench.compare.resolve import read
    from bench.report import figures
    from bench.results.store import RESULTS

    series = over_time.read(read(results or RESULTS, every=True), metric, row)
    print_rows(over_time.rows(series), json)
    if out:
        typer.echo(figures.draw_history(series, out), err=json)


def merge(
    sources: Annotated[list[Path], typer.Argument(help="Results folders, say of several machines.")],
    results: Results = None,
) -> None:
    """Join results folders into one. What is there already stays; a finished record replaces a failed one."""
    from bench.results.merge import merge_folders
    from bench.results.store import RESULTS

    done = merge_folders(sources, results or RESULTS)
    told = f"{done.taken} records taken, {done.known} known"
    typer.echo(told + (f", {done.other} have another number here, which stays" if done.other else ""))


def migrate(
    results: Annotated[Path, typer.Argument(metavar="DIR", help="A results folder.")],
) -> None:
    """Write a folder's records in today's schema. Older ones are read as they are; this only spares the step.

    Originals lie in DIR/older/ until all is done; killed in between, the same command goes on from there.
    """
    from bench.results.migrate import migrate_folder
    from bench.results.schema import SCHEMA

    done = migrate_folder(results)
    typer.echo(f"{results}: {done.written} records written in schema {SCHEMA}, {done.known} had it already")


@baseline_app.command("set")
def baseline_set(
    name: Annotated[str, typer.Argument(help="A name; the file is NAME.zip.")] = "main",
    results: Results = None,
    folder: Folder = None,
) -> None:
    """Keep the newest records of a results folder, with their per-item scores, as one file."""
    from bench.compare.baseline import FOLDER, path_of, write
    from bench.compare.resolve import read
    from bench.results.store import RESULTS

    path = path_of(name, folder or FOLDER)
    side = read(results or RESULTS)
    write(side, path)
    typer.echo(f"{path}: {len(side.records)} records, {path.stat().st_size / 1000:,.0f} kB")


@baseline_app.command("ls")
def baseline_ls(folder: Folder = None, json: Json = False) -> None:
    """The baselines in a folder."""
    from bench.compare.baseline import FOLDER, list_rows

    print_rows(list_rows(folder or FOLDER), json)


@baseline_app.command("show")
def baseline_show(
    name: Annotated[str, typer.Argument(help="A name, or a file.")], folder: Folder = None, json: Json = False
) -> None:
    """A baseline's numbers."""
    from bench.compare.baseline import FOLDER, path_of, read, reading_rows

    path = Path(name)
    if not path.is_file():
        path = path_of(name, folder or FOLDER)
    print_rows(reading_rows(read(path)), json)


def _read_baseline(text: str) -> ResultSet:
    from bench.compare.baseline import NAME, path_of
    from bench.compare.resolve import read

    path = Path(text)
    if not path.exists() and NAME.fullmatch(text) and path_of(text).is_file():
        path = path_of(text)
    return read(path, "baseline")


def _print_comparison(judged: Comparison, json: bool, md: Path | None, headline: str) -> None:
    from bench.compare import render

    if md:
        text = render.to_markdown(judged, headline)
        if str(md) == "-":
            typer.echo(text, nl=False)
        else:
            _write(md, text)
    if json:
        typer.echo(render.to_json(judged))
    elif str(md) != "-":
        from rich.console import Console

        console = Console() if sys.stdout.isatty() else Console(width=200)
        console.print(render.rich_table(judged.rows))


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as fault:
        raise UserError(f"{str(path)!r} cannot be written ({fault.strerror}): name another file") from None
