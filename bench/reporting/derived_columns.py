"""Columns of a table that are computed from other numbers of a row.

Each is a function, and a line in COLUMNS of bench.catalog.entries or an entry point in
cast_bench.columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from bench.catalog import metric_owners, registry
from bench.catalog.declarations import CatalogEntry
from bench.catalog.entries import MEASURES
from bench.reporting import profile, words
from bench.reporting.facts import Bound, Facts, RowNumbers
from bench.reporting.view import DerivedColumn, TableCell
from methods.contract.errors import UserError

CONTROL = "dense-ft"
"""Method whose training trained rows are compared with."""


def perplexity_ratio(row: RowNumbers) -> TableCell | None:
    return _ratio(row.facts.ratio)


def control_ratio(row: RowNumbers) -> TableCell | None:
    """Ratio to the control of an equal training."""
    return _ratio(row.facts.control_ratio)


def _ratio(ratio: Bound | None) -> TableCell | None:
    if not ratio:
        return None
    return TableCell(words.ratio(*ratio.parts), ratio.value)


def worst_track(row: RowNumbers) -> TableCell | None:
    loss = row.facts.track_loss
    if not loss:
        return None
    return TableCell(f"{words.percent(*loss.parts)} {row.facts.worst_track}", loss.value)


def flips(row: RowNumbers) -> TableCell | None:
    found = row.facts.flips
    if not found:
        return None
    return TableCell(profile.describe_flips(found), found.changed.value)


def tokens_to_make(row: RowNumbers) -> TableCell | None:
    tokens = row.facts.tokens
    if tokens is None:
        return None
    return TableCell(_least(row.facts) + words.short_count(tokens), float(tokens))


def time_to_make(row: RowNumbers) -> TableCell | None:
    seconds = row.facts.seconds
    if seconds is None:
        return None
    return TableCell(_least(row.facts) + words.duration(seconds), seconds)


def _least(facts: Facts) -> str:
    return "≥ " if facts.at_least else ""


def made_on(row: RowNumbers) -> TableCell | None:
    if not row.facts.device:
        return None
    return TableCell(row.facts.device)


PERPLEXITY_RATIO = DerivedColumn(
    "perplexity_ratio", perplexity_ratio, after="perplexity", names_text=True
)
CONTROL_RATIO = DerivedColumn(
    f"perplexity_ratio_to_{CONTROL}", control_ratio, after="perplexity", names_text=True
)
WORST_TRACK = DerivedColumn("worst_track", worst_track, after="answers")
FLIPS = DerivedColumn("flips", flips, after="zeroshot")
TOKENS_TO_MAKE = DerivedColumn("tokens_to_make", tokens_to_make)
TIME_TO_MAKE = DerivedColumn("time_to_make", time_to_make, unit="s")
MADE_ON = DerivedColumn("made_on", made_on, better="", words=True)


def all_columns() -> list[DerivedColumn]:
    """Return the columns of the catalog. A table shows each that has a cell.

    Raise UserError if the column of a package cannot be used.
    """
    return [_load(name, entry) for name, entry in registry.entries("columns").items()]


def _load(name: str, entry: CatalogEntry) -> DerivedColumn:
    if entry.broken:
        raise UserError(entry.broken)
    column = registry.load(entry)
    if not entry.is_plugin:
        found: DerivedColumn = column
        return found
    with registry.guarded(entry):
        column = _checked(name, column)
    return replace(column, cell=partial(_checked_cell, entry, column.cell))


def _checked(name: str, column: object) -> DerivedColumn:
    """Return a column of a package. Raise TypeError or ValueError for what is no column, or has
    another name than its entry point."""
    from pydantic import TypeAdapter  # a table of our columns alone needs no check

    if not isinstance(column, DerivedColumn):
        raise TypeError(f"it is no bench.reporting.view.DerivedColumn, but {column!r:.80}")
    column = TypeAdapter(DerivedColumn).validate_python(vars(column))
    if column.name != name or metric_owners.find(name):
        raise TypeError(
            f"the column is called {column.name!r}: give it the name of its entry point, which is "
            "no metric's"
        )
    return column


def _checked_cell(
    entry: CatalogEntry, cell: Callable[[RowNumbers], TableCell | None], row: RowNumbers
) -> TableCell | None:
    """Return the cell of a package's column with its text and value alone."""
    with registry.guarded(entry):
        found = cell(row)
        if found is None:
            return None
        value = None if found.value is None else float(found.value)
        if not isinstance(found.text, str) or not math.isfinite(value or 0):
            raise TypeError(f"a cell is no TableCell with a text and a number: {found!r:.80}")
        return TableCell(found.text, value)


def leading_columns(measures: Iterable[str], columns: Sequence[DerivedColumn]) -> list[str]:
    """Return the metrics and derived columns that a leaderboard shows at first, in order."""
    entries = dict(MEASURES)
    for name in sorted({*measures} - {*MEASURES}):
        with suppress(UserError):  # the plug-in is not installed here
            entries[name] = registry.lookup("measures", name)
    out: list[str] = []
    for measure, entry in entries.items():
        out += [metric.name for metric in entry.metrics if metric.on_board]
        out += [column.name for column in columns if column.after == measure]
    return [*out, *(column.name for column in columns if column.name not in out)]
