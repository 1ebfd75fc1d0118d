"""`bench report`: the leaderboard, or tables of records."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from bench.catalog import registry
from bench.cli.console import note, print_records, require_format
from bench.cli.flags import AllResults, Columns, SignedBy, folder_option, split_columns
from methods.contract.errors import UserError


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
    from bench.comparing import foreign

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
            write_leaderboard = registry.load(registry.lookup("services", "leaderboard"))
            write_leaderboard(opened, out, check, signed_by, title, papers, smaller)


def _print_folders(
    results: list[Path],
    format_: str,
    equal_bytes: bool,
    signed_by: Path | None,
    columns: Sequence[str],
) -> None:
    from bench.comparing.result_set import ResultSet
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
