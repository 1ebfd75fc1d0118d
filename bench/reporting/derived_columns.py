"""Columns of a leaderboard: those that it shows at first, and those that are computed from other columns."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from bench.catalog import registry
from bench.catalog.entries import MEASURES
from bench.reporting import profile, words
from bench.reporting.facts import Facts
from bench.reporting.view import TableCell
from methods.errors import UserError

RATIO, WORST_TRACK, FLIPS = "perplexity_ratio", "worst_track", "flips"
CONTROL = "dense-ft"
CONTROL_RATIO = f"perplexity_ratio_to_{CONTROL}"
"""Ratio to the control of an equal training, for trained rows."""
TOKENS, SECONDS, DEVICE = "tokens_to_make", "time_to_make", "made_on"
DERIVED = (RATIO, CONTROL_RATIO, WORST_TRACK, FLIPS, TOKENS, SECONDS, DEVICE)
"""Columns that are computed from other columns and from the cost in records."""
RATIOS = (RATIO, CONTROL_RATIO)


def leading_metrics(measures: Iterable[str]) -> list[str]:
    """Return the metrics that a leaderboard shows at first, in order: those that measures declare, then the cost."""
    entries = list(MEASURES.values())
    for name in sorted({*measures} - {*MEASURES}):
        with suppress(UserError):  # the plug-in is not installed here
            entries.append(registry.lookup("measures", name))
    return [*(metric for entry in entries for metric in entry.leaderboard), TOKENS, SECONDS, DEVICE]


def derived_cell(metric: str, facts: Facts) -> TableCell | None:
    if metric in RATIOS:
        ratio = facts.ratio if metric == RATIO else facts.control_ratio
        return TableCell(words.ratio(*ratio.parts), ratio.value) if ratio else None
    if metric == FLIPS:
        return TableCell(profile.describe_flips(facts.flips), facts.flips.changed.value) if facts.flips else None
    if metric == WORST_TRACK:
        loss = facts.track_loss
        return TableCell(f"{words.percent(*loss.parts)} {facts.worst_track}", loss.value) if loss else None
    sign = "≥ " if facts.at_least else ""
    if metric == TOKENS:
        return None if facts.tokens is None else TableCell(sign + words.short_count(facts.tokens), float(facts.tokens))
    if metric == SECONDS:
        return None if facts.seconds is None else TableCell(sign + words.duration(facts.seconds), facts.seconds)
    return TableCell(facts.device) if facts.device else None
