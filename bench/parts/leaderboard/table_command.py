"""`bench table`: one table of a model, also for one column of a paper."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from bench.cli.console import print_lines, print_text_table
from bench.cli.flags import ALL_COLUMNS, Columns, Results, split_columns
from bench.system.suggest import shorten
from methods.contract.errors import UserError


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
    from bench import results_api
    from bench.parts.leaderboard import latex as for_paper
    from bench.results.store import RESULTS

    if bold not in ("", "best"):
        raise UserError(f"invalid --bold {shorten(bold)!r}: use best")
    chosen = split_columns(columns)
    if chosen == [ALL_COLUMNS]:
        raise UserError("--columns all is for bench report: name the columns of this table")
    made = results_api.make_table(results or RESULTS, model, chosen, protocol)
    marked = made.best if bold else ()
    if latex:
        print_lines(for_paper.render_column(made.table, marked))
        return
    text = made.table
    lines = [list(line) for line in text.lines]
    for n, at in marked:
        lines[n][at] += " *"
    print_text_table(replace(text, lines=lines), text.notes)
