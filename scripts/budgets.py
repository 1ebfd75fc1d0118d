"""The chain of stages to take with a budget of time, from records alone, for docs/methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from bench.reporting.facts import Interval
from bench.system.text import escape_markdown

BUDGETS = {"a minute": 60, "ten minutes": 600, "an hour": 3600, "a day": 86_400}
"""Seconds of a budget, by its name in the table."""
PATTERN = "2:4"
SEEDS = 3
"""Seeds that a chain needs before the table names it."""


class Chain(NamedTuple):
    """A chain of stages that was measured. seconds: to make it, all stages together; device:
    where."""

    label: str
    perplexity: float
    seconds: float
    device: str


class Pick(NamedTuple):
    """The chain to take. ratio: of its perplexity to the lowest in the budget, None if it has the
    lowest itself."""

    chain: Chain
    ratio: Interval | None


def pick(
    chains: list[Chain], seconds: float, compare: Callable[[str, str], Interval | None]
) -> Pick | None:
    """Return the fastest chain that cannot be told apart from the one with the lowest perplexity.

    seconds: the budget; compare: returns the ratio of the second label's perplexity to the first's,
    None if unknown.
    """
    within = [chain for chain in chains if chain.seconds <= seconds]
    if not within:
        return None
    best = min(within, key=lambda chain: chain.perplexity)
    ties = [Pick(best, None)]
    for chain in within:
        ratio = None if chain is best else compare(best.label, chain.label)
        if ratio and ratio.low <= 1:
            ties.append(Pick(chain, ratio))
    return min(ties, key=lambda tie: tie.chain.seconds)


def lines(
    chains: Mapping[str, list[Chain]], compare: Mapping[str, Callable[[str, str], Interval | None]]
) -> list[str]:
    """Return the lines of a Markdown table: a line for each budget and model that a chain fits.
    Keys are models."""
    out = [
        "| up to | model | take | it took | perplexity | / lowest |",
        "|---|---|---|---:|---:|---:|",
    ]
    for name, seconds in BUDGETS.items():
        for model, measured in chains.items():
            if found := pick(measured, seconds, compare[model]):
                label, perplexity, took, device = found.chain
                r = found.ratio
                ratio = f"{r.value:.3f} ({r.low:.3f} to {r.high:.3f})" if r else "lowest"
                out.append(
                    f"| {name} | {model} | {escape_markdown(label)} | {took:.0f} s, {device} | "
                    f"{perplexity:.2f} | {ratio} |"
                )
    return out
