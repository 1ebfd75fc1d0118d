"""`bench figure`: a table, a pair of rows, or the curves of a training as a picture."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.console import print_line
from bench.cli.flags import Results, figure_option
from bench.system.suggest import describe_unknown
from methods.contract.errors import UserError


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
        from bench import results_api

        print_line(results_api.figure(what, *others, out=out, results=folder))
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
    from bench.comparing.result_arguments import read
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
