"""`bench history`."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.cli.console import print_rows
from bench.cli.flags import Json, Results


def history(
    metric: Annotated[
        str, typer.Argument(help="A metric, as in a record's readings.")
    ] = "perplexity",
    row: Annotated[str, typer.Option(help="Only rows with this in their name.")] = "",
    results: Results = None,
    json: Json = False,
) -> None:
    """Show a metric over commits, and its steps beyond noise.

    It also shows changes of machine and libraries. Commits with different seeds have separate rows.
    The commits of a plug-in's row are those of its repository.
    """
    from bench.comparing.result_arguments import read
    from bench.parts.history import series
    from bench.results.store import RESULTS

    found = series.read(read(results or RESULTS, every=True), metric, row)
    print_rows(series.rows(found), json)
