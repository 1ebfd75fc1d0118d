"""`bench card`."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.console import print_line
from bench.cli.flags import Results, folder_option
from methods.contract.errors import UserError


def card(
    model: Annotated[
        str, typer.Argument(help="A folder of bench export, or a record (the digits of its key).")
    ],
    row: Annotated[
        str | None,
        typer.Option(
            metavar="RECORD",
            help="For a folder: a record of its row [default: that of its fidelity.json].",
        ),
    ] = None,
    base: Annotated[
        str, typer.Option(help="For a folder without a row: its original [default: as it says].")
    ] = "",
    out: Annotated[
        Path | None, folder_option("--out", "For a record: folder to write.", new=True)
    ] = None,
    results: Results = None,
) -> None:
    """Write the README.md of a model folder, with its numbers.

    Beside it are fidelity.json, a receipt of files, records and numbers, and the results for Every
    Eval Ever. A README.md that is not a card of bench card is refused. Figures of bench fidelity in
    the folder, fidelity.svg or fidelity.png, are shown.
    """
    from bench.parts.card import notes, writer
    from bench.results.store import RESULTS, ReadOnlyStore
    from bench.system.files import atomic_folder
    from bench.system.suggest import shorten

    store = results or RESULTS
    if not Path(model).is_dir():
        for flag, value in (("--row", row), ("--base", base)):
            if value:
                raise UserError(f"{flag} is for a folder, and {shorten(model)!r} is none")
        if not re.fullmatch("[0-9a-f]+", Path(model).stem):
            raise UserError(
                f"{shorten(model)!r} is no model folder and no record: check the path (bench ls "
                "runs lists records)"
            )
        if out is None:
            raise UserError(f"{shorten(model)!r} is a record: name a folder to write with --out")
        path = Path(model)
        if results is None and path.is_file() and path.parent.name == "records":
            store = path.parent.parent
        found = writer.of_row(ReadOnlyStore(store).find(model), store)
        with atomic_folder(out) as workdir:
            names = writer.write(found, out.name, workdir)
        print_line(f"{out}: {', '.join(names)}")
        return
    folder = Path(model)
    if out is not None:
        raise UserError(f"the card of a folder is written to it: leave --out {out} out")
    if row and base:
        raise UserError(f"--base is for a folder without a row, and its row is {row}")
    if not notes.may_be_written(folder):
        raise UserError(
            f"{folder / 'README.md'} is not a card of bench card: move it away to write one"
        )
    said = notes.read_notes(folder)
    key = row or said.record
    if key:
        found = writer.of_row(ReadOnlyStore(store).find(key), store)
    else:
        found = writer.of_folder(said, base)
    found = replace(found, export=said.export)
    print_line(f"{folder}: {', '.join(writer.write(found, folder.resolve().name, folder))}")
