"""Columns of a leaderboard that are computed from other numbers of a row. Each is a function and an
entry in COLUMNS."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from bench.catalog import registry
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

COLUMNS = (
    PERPLEXITY_RATIO,
    DerivedColumn(
        f"perplexity_ratio_to_{CONTROL}", control_ratio, after="perplexity", names_text=True
    ),
    DerivedColumn("worst_track", worst_track, after="answers"),
    DerivedColumn("flips", flips, after="zeroshot"),
    DerivedColumn("tokens_to_make", tokens_to_make),
    DerivedColumn("time_to_make", time_to_make, unit="s"),
    DerivedColumn("made_on", made_on, better="", words=True),
)
"""All derived columns. A leaderboard shows each that has a cell."""


def leading_columns(measures: Iterable[str]) -> list[str]:
    """Return the metrics and derived columns that a leaderboard shows at first, in order."""
    entries = dict(MEASURES)
    for name in sorted({*measures} - {*MEASURES}):
        with suppress(UserError):  # the plug-in is not installed here
            entries[name] = registry.lookup("measures", name)
    out: list[str] = []
    for measure, entry in entries.items():
        out += [metric.name for metric in entry.metrics if metric.on_board]
        out += _following(measure)
    return [*out, *_following("")]


def _following(measure: str) -> Iterator[str]:
    return (column.name for column in COLUMNS if column.after == measure)
