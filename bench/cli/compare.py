"""`bench compare`, `gate`, `baseline` and `history`. Each imports what it needs when it runs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.console import (
    PIPE_WIDTH,
    note,
    print_commands,
    print_json,
    print_line,
    print_rows,
    print_wrapped,
    write_output,
)
from bench.cli.flags import ALL_COLUMNS, Figure, Json, Results, file_option, split_list
from bench.compare import gate_settings
from bench.system.files import require_writable_file
from bench.system.suggest import describe_unknown, shorten
from bench.system.text import amount
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
Folder = Annotated[
    Path | None,
    typer.Option("--dir", metavar="DIR", help="Folder of baselines [default: results/baselines]."),
]

COMPARED = ("mark", "row", "metric", "before", "after", "change", "p", "verdict", "about")
"""All columns of a comparison."""
DEFAULT_COLUMNS = ("row", "before", "after", "change", "verdict")
MARK = ""
"""Header of the column of marks."""

baseline_app = typer.Typer(
    help="Manage baselines: results saved as one file, for gates.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


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
    from bench.compare import render, result_arguments, verdict
    from bench.results.store import RESULTS

    _require_one_output(json, md)
    shown = _split_columns(columns)
    if results and Path(a).is_dir() and Path(b).is_dir():
        raise UserError(f"--results {shorten(results)} has no effect on two folders: leave it out")
    ignore: tuple[str, ...] = ()
    harness = _pair_harness(a, b)
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
    _print_comparison(comparison, json, md, headline, columns=shown or DEFAULT_COLUMNS)
    note(headline)
    if not json and str(md) != "-":
        for sentence in render.describe_order(comparison, a, b):
            print_wrapped(sentence)
        if not harness:
            given = f" --results {shlex.quote(str(results))}" if results else ""
            command = f"bench figure {shlex.quote(a)} {shlex.quote(b)}{given} --out difference.svg"
            print_line(f"Next: {command}")


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
    from bench.compare import ci, render
    from bench.compare.result_arguments import read
    from bench.compare.verdict import compare
    from bench.results.store import RESULTS

    _require_one_output(json, md, junit)
    harness = _pair_harness(baseline, str(results or RESULTS), whole=True)
    before, after = harness or (_read_baseline(baseline), read(results or RESULTS))
    limits = gate_settings.read(config, before.metrics | after.metrics, strict=strict or None)
    comparison = compare(before, after, limits)
    if rerun_suspects and harness:
        raise UserError(
            "--rerun-suspects measures again with cast-bench, and these results are of another "
            "harness"
        )
    if rerun_suspects and comparison.failed:
        from bench.compare.remeasure import rerun
        from bench.execution.runner import measure_again
        from bench.system.cache import temporary_folder

        with temporary_folder("again-") as workdir:
            comparison = compare(
                before, rerun(after, comparison, workdir, measure_again, note), limits
            )
    _print_comparison(
        comparison, json, md, f"bench gate {render.describe_outcome(comparison)}", junit
    )
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


def _pair_harness(a: str, b: str, *, whole: bool = False) -> tuple[ResultSet, ResultSet] | None:
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


def history(
    metric: Annotated[
        str, typer.Argument(help="A metric, as in a record's readings.")
    ] = "perplexity",
    row: Annotated[str, typer.Option(help="Only rows with this in their name.")] = "",
    out: Figure = None,
    results: Results = None,
    json: Json = False,
) -> None:
    """Show a metric over commits, and its steps beyond noise.

    It also shows changes of machine and libraries. Commits with different seeds have separate rows.
    The commits of a plug-in's row are those of its repository.
    """
    from bench.compare import history as metric_history
    from bench.compare.result_arguments import read
    from bench.reporting import figures
    from bench.results.store import RESULTS

    series = metric_history.read(read(results or RESULTS, every=True), metric, row)
    print_rows(metric_history.rows(series), json)
    if out:
        print_line(figures.draw_history(series, out), err=json)


@baseline_app.command("set")
def baseline_set(
    name: Annotated[str, typer.Argument(help="The file is NAME.zip.")] = "main",
    results: Results = None,
    folder: Folder = None,
) -> None:
    """Save the newest records of a results folder as a baseline.

    Scores of single windows and questions are saved, too.
    """
    from bench.compare.baseline import FOLDER, path_of, write
    from bench.compare.result_arguments import read
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
    from bench.compare.baseline import FOLDER, list_rows

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
    from bench.compare.baseline import FOLDER, path_of, read, reading_rows

    file = Path(name)
    if not file.is_file():
        file = path_of(name, folder or FOLDER)
    print_rows(reading_rows(read(file)), json)


def _read_baseline(text: str) -> ResultSet:
    from bench.compare.baseline import FOLDER, NAME, path_of
    from bench.compare.result_arguments import read

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


def _require_one_output(json: bool, md: Path | None, junit: Path | None = None) -> None:
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


def _print_comparison(
    comparison: Comparison,
    json: bool,
    md: Path | None,
    headline: str,
    junit: Path | None = None,
    columns: Sequence[str] = (),
) -> None:
    """columns: those of the table, by default all."""
    from bench.compare import ci, render

    if junit:
        write_output(junit, ci.to_junit(comparison))
    if md:
        write_output(md, render.to_markdown(comparison, headline))
    if json:
        print_json(render.to_json(comparison))
    elif "-" not in (str(md), str(junit)):
        _print_verdicts(comparison.rows, columns or COMPARED)


def _print_verdicts(rows: Sequence[Row], columns: Sequence[str]) -> None:
    from bench.cli.tables import StyledCell, print_table
    from bench.compare.render import COLORS, cells, is_same, short_cells
    from bench.compare.verdict import FAILING_VERDICTS

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
