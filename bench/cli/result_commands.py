"""Commands that print or draw results: ls, show, figure, scaling, report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.console import (
    fail,
    note,
    print_json,
    print_line,
    print_lines,
    print_records,
    print_rows,
    print_text_table,
    require_format,
)
from bench.cli.flags import (
    ALL_COLUMNS,
    AllResults,
    Columns,
    Figure,
    Json,
    Results,
    SignedBy,
    figure_option,
    folder_option,
    split_columns,
)
from bench.system.suggest import describe_unknown, shorten
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from bench.results.record import ReadingRow, Record


def ls(
    what: Annotated[
        str,
        typer.Argument(help="methods, models, data, tasks, measures, quantizers, recipes or runs."),
    ],
    long: Annotated[
        bool,
        typer.Option(
            "--long",
            help="Also list fields with their defaults, and what each method costs on a 7B model.",
        ),
    ] = False,
    results: Results = None,
    json: Json = False,
) -> None:
    """List methods, models, data, tasks, records and more."""
    from bench.cli import listing

    if results and what != "runs":
        raise UserError(f"--results is for bench ls runs: leave it out of bench ls {shorten(what)}")
    if long and what not in ("methods", "measures", "quantizers"):
        raise UserError(
            "--long is for methods, measures and quantizers: leave it out of bench ls "
            f"{shorten(what)}"
        )
    print_rows(listing.rows(what, long, results), json)


def show(
    record: Annotated[
        str, typer.Argument(help="The first digits of a record's key; bench ls runs lists them.")
    ],
    results: Results = None,
    json: Json = False,
) -> None:
    """Print one record: its numbers, and what made them.

    One that failed has its traceback. --json prints all fields.
    """
    from bench.results.store import RESULTS, ReadOnlyStore

    one = ReadOnlyStore(results or RESULTS).find(record)
    if json:
        print_json(one.model_dump_json(indent=1))
        return
    print_rows(_facts(one), as_json=False)
    if one.traceback:
        print_lines(one.traceback)


def _facts(record: Record) -> list[dict[str, Any]]:
    """Return a row for each fact, in the order: identity, outcome, cost, provenance."""
    from bench.results import metrics

    commit = record.commit_id[:12]
    if record.commit.get("dirty"):
        commit += ", changed since"
    machine = (
        record.processor,
        record.machine.get("instruction_set"),
        record.machine.get("platform"),
    )
    facts = [
        *record.identity.labels().items(),
        ("threads", record.key_inputs.get("threads")),
        ("status", ": ".join(filter(None, (record.status, record.reason)))),
        *((metrics.find(one.metric).label, _number(one)) for one in record.readings),
        ("took", _cost(record.cost)),
        ("recorded", record.recorded),
        ("commit", commit),
        (
            "plug-ins",
            ", ".join(
                f"{one['name']} of {one['distribution']} {one['version']}" for one in record.plugins
            ),
        ),
        ("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
        ("machine", ", ".join(str(part) for part in machine if part)),
    ]
    return [
        {"record": name, record.stem: str(fact)} for name, fact in facts if fact not in (None, "")
    ]


def _number(reading: ReadingRow) -> str:
    """Return a number with its unit, and with its standard error if it has one."""
    from bench.reporting.table import format_number

    if reading.value is None:
        return "none"
    text = format_number(reading.value, reading.stderr, reading.unit)
    if reading.unit not in ("1", "B"):
        text += f" {reading.unit}"
    if reading.stderr and reading.n:
        text += f", standard error over {reading.n:,}"
    return text


def _cost(cost: dict[str, Any]) -> str:
    from bench.reporting.words import duration

    parts = [
        f"{duration(cost[name])} to {verb}"
        for name, verb in (("build_s", "make"), ("wall_s", "measure"))
        if isinstance(cost.get(name), int | float)
    ]
    if isinstance(peak := cost.get("peak_bytes"), int | float):
        parts.append(f"{peak / 1e9:.1f} GB")
    return ", ".join(parts)


def figure(
    what: Annotated[
        str,
        typer.Argument(
            help="A model: its table. A record of a training (the first digits of a `pattern` "
            "record's key): its curves. With others: a row, as in bench compare."
        ),
    ],
    out: Annotated[Path, figure_option("--out", "Figure to write: .svg, .png or .pdf.")],
    others: Annotated[
        list[str] | None, typer.Argument(help="Draw how these rows differ from the first.")
    ] = None,
    metric: Annotated[
        str,
        typer.Option(
            help="Metric of a table's rows [default: the perplexity's ratio to the dense model]."
        ),
    ] = "",
    protocol: Annotated[
        str,
        typer.Option(
            help="Part of the protocol of a table, for example wikitext2@2048 [default: the main "
            "one]."
        ),
    ] = "",
    results: Results = None,
) -> None:
    """Draw a table, a pair of rows, or the curves of a training.

    A table: each row with its interval, the best first. A pair: every metric of both, as a ratio or
    a difference. A training: losses, S (the share of |w| that the mask keeps), mask flips, learning
    rate and alpha.
    """
    from bench.results.store import RESULTS, ReadOnlyStore

    folder = results or RESULTS
    if others:
        if metric or protocol:
            raise UserError(
                "--metric and --protocol are for a table: leave them out of a pair of rows"
            )
        from bench import api

        print_line(api.figure(what, *others, out=out, results=folder))
        return None
    store = ReadOnlyStore(folder)
    models = dict.fromkeys(record.identity.model for record in store.listed())
    if what in models:
        return _draw_table(what, folder, metric, protocol, out)
    if not re.fullmatch("[0-9a-f]{4,64}", what):
        raise UserError(
            describe_unknown(
                "model", what, models, ", or a row with a second row, or digits of a record's key"
            )
        )
    if metric or protocol:
        raise UserError("--metric and --protocol are for a table: leave them out of a training")
    from bench.reporting import figures

    print_line(figures.draw_training(store.find(what), out))


def _draw_table(model: str, folder: Path, metric: str, protocol: str, out: Path) -> None:
    from bench.compare.result_arguments import read
    from bench.reporting import board, forest

    results = read(folder)
    (section,) = board.make_sections(
        [results.only(results.name, (r for r in results.records if r.identity.model == model))]
    )
    table = next((one for one in section.tables if protocol in one.protocol), None)
    if table is None:
        raise UserError(
            describe_unknown(
                f"protocol of {model}", protocol, [one.protocol for one in section.tables]
            )
        )
    print_line(forest.draw_column(table, metric, out))


def table(
    results: Results = None,
    model: Annotated[str, typer.Option(help="The model, if the folder has several.")] = "",
    protocol: Annotated[
        str, typer.Option(help="Parts of a protocol's name, by commas [default: the main one].")
    ] = "",
    columns: Columns = None,
    bold: Annotated[
        str, typer.Option(metavar="best", help="best: mark the best number of each column.")
    ] = "",
    latex: Annotated[bool, typer.Option("--latex", help="Print a tabular for a paper.")] = False,
) -> None:
    """Print a table of a model, also as LaTeX for a paper.

    It fits one column. --columns row,perplexity,kl chooses what it shows, and in which order.
    """
    from bench import api
    from bench.reporting import latex as for_paper
    from bench.results.store import RESULTS

    if bold not in ("", "best"):
        raise UserError(f"invalid --bold {shorten(bold)!r}: use best")
    chosen = split_columns(columns)
    if chosen == [ALL_COLUMNS]:
        raise UserError("--columns all is for bench report: name the columns of this table")
    made = api.make_table(results or RESULTS, model, chosen, protocol)
    marked = made.best if bold else ()
    if latex:
        print_lines(for_paper.render_column(made.table, marked))
        return
    text = made.table
    lines = [list(line) for line in text.lines]
    for n, at in marked:
        lines[n][at] += " *"
    print_text_table(replace(text, lines=lines), text.notes)


def scaling(
    method: Annotated[str, typer.Option(help="The sparse method, as in its table.")] = "cast",
    control: Annotated[
        str, typer.Option(help="The dense method that it is compared with.")
    ] = "dense-ft",
    out: Figure = None,
    results: Results = None,
    json: Json = False,
) -> None:
    """Fit a power law to the cost of sparsity.

    The cost is the loss above a control, over model size and training tokens. The largest run is
    not fitted, but predicted.
    """
    from bench.compare import scaling_law as law
    from bench.reporting import figures
    from bench.results.store import RESULTS

    fit, holdout, predicted = law.predict_holdout(law.read(results or RESULTS, method, control))
    print_rows(law.to_rows(fit, holdout, predicted), json)
    if out:
        print_line(figures.draw_scaling(fit, out, method, control, holdout), err=json)


def report(
    results: AllResults = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Print tables instead, as table, json, csv or md [default folder: results/local].",
        ),
    ] = None,
    columns: Columns = None,
    equal_bytes: Annotated[
        bool,
        typer.Option(
            "--equal-bytes",
            help="Print each sparse row of a folder [default: results/local] with the dense rows "
            "of about the same size.",
        ),
    ] = False,
    out: Annotated[
        Path | None, folder_option("--out", "Folder to write [default: reports].")
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Write nothing; exit code 1 if the files in the folder are out of date."
        ),
    ] = False,
    signed_by: SignedBy = None,
    title: Annotated[
        str | None, typer.Option(help="Title of the page [default: cast-bench leaderboard].")
    ] = None,
    papers: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Folder of CSV files with rows from papers, or none [default: those of this "
            "package].",
        ),
    ] = None,
    smaller: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Put the dense rows of this model in the tables of larger models, compared by "
            "bits per byte.",
        ),
    ] = None,
) -> None:
    """Write the leaderboard, or print tables of records.

    The leaderboard is an HTML page, Markdown, CSV, LaTeX and figures. It has the newest record of
    each identity, and numbers from papers. With --results or --format, and
    without --out and --check, tables are printed instead. --results also takes folders of lm-eval,
    lighteval, EvalScope and Every Eval Ever.
    """
    from bench.compare import foreign

    files = bool(out or check or title or papers or smaller)
    shown = split_columns(columns)
    if shown and (equal_bytes or format_ not in (None, "table")):
        raise UserError("--columns is for --format table: leave the others out")
    if files and (format_ or equal_bytes or shown):
        raise UserError(
            "--format, --columns and --equal-bytes print tables, --out, --check, --title, --papers "
            "and --smaller are for files: use options of one kind"
        )
    if equal_bytes and signed_by:
        raise UserError("--equal-bytes prints no signers: leave --signed-by out")
    with ExitStack() as stack:
        opened = [stack.enter_context(foreign.as_results(folder)) for folder in results or ()]
        if not files and (format_ or equal_bytes or shown or results):
            _print_folders(opened, format_ or "table", equal_bytes, signed_by, shown)
        else:
            _write_leaderboard(opened, out, check, signed_by, title, papers, smaller)


def _write_leaderboard(
    results: list[Path],
    out: Path | None,
    check: bool,
    signed_by: Path | None,
    title: str | None,
    papers: str | None,
    smaller: str | None,
) -> None:
    from bench.reporting import html, leaderboard
    from bench.results.store import RESULTS

    folder = out or leaderboard.FOLDER
    rows: Path | None = leaderboard.PUBLISHED
    if papers is not None:
        rows = Path(papers) if papers != "none" else None
    if papers and rows and not rows.is_dir():
        raise UserError(f"--papers {papers!r} is no folder: name one with CSV files, or none")
    title = title or html.LEADERBOARD.title
    files = leaderboard.build(
        results or leaderboard.results_folders(), rows, signed_by, title, smaller or ""
    )
    if not check:
        for path in leaderboard.write(files, folder):
            print_line(path)
        if not results and leaderboard.leaves_local_out():
            note(
                f"{RESULTS} is left out: bench report --results {RESULTS} --out DIR writes a page "
                "of it"
            )
        return
    stale = leaderboard.find_stale(files, folder)
    if stale:
        fail(
            f"out of date: {', '.join(map(str, stale))}: the same command without --check writes "
            "them",
            1,
        )


def _print_folders(
    results: list[Path],
    format_: str,
    equal_bytes: bool,
    signed_by: Path | None,
    columns: Sequence[str],
) -> None:
    from bench.compare.result_set import ResultSet
    from bench.results.rows import newest, outdated
    from bench.results.signatures import names, verify
    from bench.results.store import RESULTS, ReadOnlyStore

    require_format(format_, equal_bytes)
    if signed_by and format_ in ("json", "csv") and len(results) > 1:
        raise UserError(
            f"--signed-by with --format {format_} takes one results folder: leave the others out"
        )
    found: list[tuple[ResultSet, dict[str, str] | None]] = []
    for folder in results or [RESULTS]:
        store = ReadOnlyStore(folder)
        records = newest(store)
        old = outdated(records)
        for line in store.damaged:
            note(f"{line}: left out")
        for record, sentence in old:
            note(f"in {store.path(record.key)} {sentence}: left out")
        left_out = {id(record) for record, _ in old}
        records = [record for record in records if id(record) not in left_out]
        if not records and not store.damaged:
            raise UserError(
                f"results folder {str(folder)!r} has no records: name another, or run bench run "
                "first"
            )
        signed_as = None
        if signed_by:
            signers = verify(folder, signed_by)
            for problem in signers.problems:
                note(problem)
            signed_as = names(records, signers)
        found.append((ResultSet(str(folder), tuple(records), store.items), signed_as))
    if format_ in ("json", "csv"):  # one document
        (first, signed), *others = found
        every = list(first.records)
        for one, _ in others:
            every += one.records
        found = [(first.only("all folders", every), signed)]
    for one, signed in found:
        print_records(one, format_, equal_bytes, signed, columns)
