"""Table of the chain of stages to take for a budget of time."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from page_records import SEEDS, compare, markdown, mean, merge, perplexities, ratio_text

from bench.comparing.result_set import ResultSet
from bench.reporting.cost import CostIndex
from bench.reporting.facts import Interval
from bench.system.text import escape_markdown

BUDGETS = {"a minute": 60, "ten minutes": 600, "an hour": 3600, "a day": 86_400}
"""Seconds of a budget, by its name in the table."""
BUDGET_PATTERN = "2:4"
TYPED_FIELD = re.compile(r":(?!from=)[^: ]+=")
"""A field of a search or an ablation in a label."""


class Chain(NamedTuple):
    """A chain of stages that was measured."""

    label: str
    perplexity: float
    seconds: float
    """Seconds of all stages together."""
    device: str


class Pick(NamedTuple):
    """The chain to take for a budget."""

    chain: Chain
    ratio: Interval | None
    """Ratio to the lowest perplexity in the budget, or None for that chain itself."""


def pick(
    chains: list[Chain], seconds: float, ratio_of: Callable[[str, str], Interval | None]
) -> Pick | None:
    """Return the fastest chain that cannot be told apart from the one with the lowest perplexity.

    ratio_of(a, b): ratio of the perplexity of label b to that of label a, or None if unknown.
    """
    within = [chain for chain in chains if chain.seconds <= seconds]
    if not within:
        return None
    best = min(within, key=lambda chain: chain.perplexity)
    ties = [Pick(best, None)]
    for chain in within:
        ratio = None if chain is best else ratio_of(best.label, chain.label)
        if ratio and ratio.low <= 1:
            ties.append(Pick(chain, ratio))
    return min(ties, key=lambda tie: tie.chain.seconds)


def budget(*folders: str) -> str:
    """Return which chain of stages to take with a budget of time, for the model of each folder."""
    models = [merge(folder) for folder in folders]
    chains = [_chains(results) for results in models]
    rows = []
    for name, seconds in BUDGETS.items():
        for results, measured in zip(models, chains, strict=True):
            taken = pick(measured, seconds, partial(_chain_ratio, results))
            if taken:
                label, perplexity, took, device = taken.chain
                cells = (escape_markdown(label), f"{took:.0f} s, {device}", f"{perplexity:.2f}")
                model = results.records[0].identity.model
                rows.append((name, model, *cells, ratio_text(taken.ratio, "lowest")))
    return markdown(("up to", "model", "take", ">it took", ">perplexity", ">/ lowest"), rows)


def _chains(results: ResultSet) -> list[Chain]:
    """Return the chains of BUDGET_PATTERN with enough seeds and a known cost."""
    costs, found = CostIndex(results.records), []
    for label, patterns in perplexities(results).items():
        seeds = patterns.get(BUDGET_PATTERN, {})
        repeated = None in seeds or len(seeds) >= SEEDS
        if not repeated or TYPED_FIELD.search(label):
            continue
        cost = costs.of_row(record.identity for record in seeds.values())
        if cost and not cost.at_least:
            found.append(Chain(label, mean(seeds), cost.seconds, cost.device))
    return found


def _chain_ratio(results: ResultSet, before: str, after: str) -> Interval | None:
    rows = perplexities(results)
    return compare(rows[before][BUDGET_PATTERN], rows[after][BUDGET_PATTERN], results)


TABLES: dict[str, Callable[..., str]] = {
    "budget": budget,
}
"""Functions by the first word of their comment."""
