"""The Python API for results: `compare`, `pick`, `table` and `figure`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.results.store import RESULTS
from methods.contract.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from bench.comparing.result_set import ResultSet
    from bench.reporting.overview import Overview


def compare(a: Path | str, b: Path | str, results: Path | str = RESULTS) -> pd.DataFrame:
    """Compare two result sets, and return a row for each number with its verdict.

    a, b: as in `bench compare`: folders, or rows such as "wanda" of the folder `results`. Columns:
    row, metric, verdict, before, after, value, low, high (a ratio or a difference, as `effect`
    says), p_adjusted, n, n_needed and others of `bench compare --json`.
    """
    import json

    import pandas as pd

    from bench.comparing import gate_settings, render, result_arguments, verdict

    before, after, ignore = result_arguments.resolve_both(str(a), str(b), Path(results))
    settings = gate_settings.read(None, before.metrics | after.metrics)
    found = verdict.compare(before, after, settings, ignore=ignore, exploratory=True)
    return pd.DataFrame(json.loads(render.to_json(found))["rows"])


def pick(
    model: str, results: Path | str = RESULTS, *, engine: str = "", **limits: str
) -> pd.DataFrame:
    """Return the compressed rows of a model that meet limits, the best first.

    engine: only rows that it runs, with the sizes of its files. limits: as in `bench pick`:
    max_mb="100", max_bits="5", max_loss="3%", max_worst_drop="5pp", min_speedup="1.2",
    budget_tokens="2M". Raise UserError for a model without records.
    """
    import pandas as pd

    from bench.reporting import answer_json, candidates, serving
    from bench.reporting.limits import parse_limits

    board = answer_json.choose_board(model, _read(results, model), by_calibration=False)
    table = board.make_table(paired=board.is_quality)
    if engine:
        table = serving.ship(table, engine)
    answer = candidates.pick(table, parse_limits(**limits))
    return pd.DataFrame(answer_json.to_objects(answer)["meets"])


def table(
    results: Path | str = RESULTS, model: str = "", columns: Sequence[str] = (), protocol: str = ""
) -> pd.DataFrame:
    """Return the table of a model as text, with the columns of `bench table`.

    model: by default the only one of the folder. columns: names as after --columns.
    """
    import pandas as pd

    text = make_table(results, model, columns, protocol).table
    return pd.DataFrame(text.lines, columns=text.headers)


def make_table(
    results: Path | str, model: str = "", columns: Sequence[str] = (), protocol: str = ""
) -> Overview:
    """Make the short table of a model. Raise UserError if the folder has several models and none is
    named, or for an unknown column."""
    from bench.reporting import answer_json, overview

    overview.require_columns(columns)
    every = _read(results, model)
    names = list(dict.fromkeys(record.identity.model for record in every.records))
    if len(names) != 1:
        wanted = f"{model!r} has no records" if model else "there are several models"
        known = ", ".join(names) or "none"
        raise UserError(f"in {str(results)!r} {wanted}: name one with --model (known: {known})")
    board = answer_json.choose_board(names[0], every, protocol)
    made = overview.make(board, columns or overview.COLUMNS)
    assert made is not None
    return made


def figure(
    what: str, *others: str, out: Path | str, results: Path | str = RESULTS, metric: str = ""
) -> Path:
    """Draw a model's table, or how other rows differ from the first, and return the file.

    what: a model, or with `others` a row as in `compare`. out: .svg, .png or .pdf. metric: of a
    model's table, by default the perplexity's ratio to the dense model.
    """
    from bench.comparing import gate_settings, result_arguments, verdict
    from bench.reporting import answer_json, forest

    if not others:
        board = answer_json.choose_board(what, _read(results, what))
        return forest.draw_column(board.make_table(), metric, Path(out))
    rows: list[verdict.Row] = []
    for other in others:
        a, b, ignore = result_arguments.resolve_both(what, other, Path(results))
        settings = gate_settings.read(None, a.metrics | b.metrics)
        found = verdict.compare(a, b, settings, ignore=ignore, exploratory=True).rows
        if len(others) > 1:
            found = tuple(replace(row, name=f"{other}: {row.name}") for row in found)
        rows += found
    return forest.draw_pair(rows, Path(out), what, ", ".join(others))


def _read(results: Path | str, model: str) -> ResultSet:
    """Return the newest records of a model in a folder, without outdated ones."""
    from bench.comparing import result_arguments
    from bench.reporting.board import without_outdated

    every = result_arguments.read(Path(results), model=model)
    records, _ = without_outdated(every.records)
    return every.only(every.name, records)
