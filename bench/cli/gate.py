"""`bench gate` and `bench baseline`. Each imports what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.compare import (
    Config,
    Md,
    pair_harness,
    print_comparison,
    require_one_output,
)
from bench.cli.console import note, print_commands, print_line, print_rows, write_output
from bench.cli.flags import Json, Results, file_option
from bench.system.files import require_writable_file
from bench.system.suggest import describe_unknown
from bench.system.text import amount
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from bench.comparing.result_set import ResultSet

Folder = Annotated[
    Path | None,
    typer.Option("--dir", metavar="DIR", help="Folder of baselines [default: results/baselines]."),
]

baseline_app = typer.Typer(
    help="Manage baselines: results saved as one file, for gates.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def gate(
    baseline: Annotated[str, typer.Option(help="A results folder, or a baseline (name or file).")],
    results: Results = None,
    config: Config = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Inconclusive numbers fail, too.")
    ] = False,
    rerun_suspects: Annotated[
        bool,
        typer.Option(
            "--rerun-suspects",
            help="Before failing, measure again what looks worse, in a new process.",
        ),
    ] = False,
    junit: Annotated[
        Path | None, file_option("--junit", "Write JUnit XML to this file.", stdout=True)
    ] = None,
    github: Annotated[bool, typer.Option("--github", help="Print annotations for GitHub.")] = False,
    md: Md = None,
    json: Json = False,
) -> None:
    """Fail if a number is worse than its margin, beyond noise.

    Exit code 0: passed. 1: failed. 2: invalid input, or nothing can be compared.
    """
    from bench.comparing import ci, gate_settings, render
    from bench.comparing.result_arguments import read
    from bench.comparing.verdict import compare
    from bench.results.store import RESULTS

    require_one_output(json, md, junit)
    harness = pair_harness(baseline, str(results or RESULTS), whole=True)
    before, after = harness or (_read_baseline(baseline), read(results or RESULTS))
    limits = gate_settings.read(config, before.metrics | after.metrics, strict=strict or None)
    comparison = compare(before, after, limits)
    if rerun_suspects and harness:
        raise UserError(
            "--rerun-suspects measures again with cast-bench, and these results are of another "
            "harness"
        )
    if rerun_suspects and comparison.failed:
        from bench.comparing.remeasure import rerun
        from bench.execution.runner import measure_again
        from bench.system.cache import temporary_folder

        with temporary_folder("again-") as workdir:
            comparison = compare(
                before, rerun(after, comparison, workdir, measure_again, note), limits
            )
    if junit:
        write_output(junit, ci.to_junit(comparison))
    headline = f"bench gate {render.describe_outcome(comparison)}"
    print_comparison(comparison, json, md, headline, table=str(junit) != "-")
    if github:
        print_commands(ci.to_github(comparison), err=json or "-" in (str(md), str(junit)))
    if all(row.verdict in ("NOT_COMPARABLE", "NO_BASELINE") for row in comparison.rows):
        why = f" ({comparison.rows[0].reason})" if comparison.rows else ""
        raise UserError(
            f"baseline {baseline!r} and {after.name!r} have nothing that can be compared{why}: "
            "bench baseline show lists the baseline's numbers"
        )
    note(render.describe_outcome(comparison))
    if comparison.failed:
        raise typer.Exit(1)


@baseline_app.command("set")
def baseline_set(
    name: Annotated[str, typer.Argument(help="The file is NAME.zip.")] = "main",
    results: Results = None,
    folder: Folder = None,
) -> None:
    """Save the newest records of a results folder as a baseline.

    Scores of single windows and questions are saved, too.
    """
    from bench.comparing.baseline import FOLDER, path_of, write
    from bench.comparing.result_arguments import read
    from bench.results.store import RESULTS

    path = path_of(name, folder or FOLDER)
    require_writable_file(path, "baseline")
    newest = read(results or RESULTS)
    write(newest, path)
    print_line(
        f"{path}: {amount(len(newest.records), 'record')}, {path.stat().st_size / 1000:,.0f} kB"
    )


@baseline_app.command("ls")
def baseline_ls(folder: Folder = None, json: Json = False) -> None:
    """List the baselines in a folder."""
    from bench.comparing.baseline import FOLDER, list_rows

    if folder and not folder.is_dir():
        raise UserError(f"--dir {str(folder)!r} is not a folder: name a folder of baselines")
    print_rows(list_rows(folder or FOLDER), json)


@baseline_app.command("show")
def baseline_show(
    name: Annotated[str, typer.Argument(help="A baseline: its name or its file.")],
    folder: Folder = None,
    json: Json = False,
) -> None:
    """Print the numbers of a baseline."""
    from bench.comparing.baseline import FOLDER, path_of, read, reading_rows

    file = Path(name)
    if not file.is_file():
        file = path_of(name, folder or FOLDER)
    print_rows(reading_rows(read(file)), json)


def _read_baseline(text: str) -> ResultSet:
    from bench.comparing.baseline import FOLDER, NAME, path_of
    from bench.comparing.result_arguments import read

    path = Path(text)
    is_name = NAME.fullmatch(text) and not (path / "records").is_dir()
    # A folder without records may have the name of a baseline.
    if is_name and path_of(text).is_file():
        return read(path_of(text))
    if path.exists() or not is_name:
        return read(path, "baseline")
    known = sorted(file.stem for file in FOLDER.glob("*.zip"))
    also = ", or a results folder" if known else "none; bench baseline set writes one"
    raise UserError(describe_unknown("baseline", text, known, also))
