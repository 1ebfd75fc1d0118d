"""How speeds are taken, whatever the device: in turn, the baseline twice, from memory that no cache holds.

A block of each contestant after a block of the last, A B C A' A B C A' ..., so that a machine that slows down slows all of
them. A' is the baseline once more: how far it seems to be from itself is the noise floor, and a speedup inside it is none.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, NamedTuple, TypeVar

from bench.kernels.timing import Clock, Work
from bench.stats import bootstrap

T = TypeVar("Thing")

BLOCKS = 12
"""Ten are the least that a gate pairs."""

BLOCK_S = 0.02
"""Of a block, about."""

MAX_SAMPLES = 200
"""In a block."""

CACHE_MULTIPLE = 3
"""Times the last cache's size that the copies of a weight take up together."""

LEVEL = 0.05

MIN_PEAK_SHARE = 0.7
"""Of the measured peak: a dense side under it is slow itself, and a speedup over it flattered."""

REPEAT_SUFFIX = " again"


class Ratio(NamedTuple):
    """slow / fast over blocks, with Student's interval of the mean ln ratio."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Timings:
    """Seconds of each contestant."""

    blocks: Mapping[str, tuple[float, ...]]
    """Medians of its blocks."""
    samples: Mapping[str, tuple[float, ...]]
    """All of it."""

    def median(self, name: str) -> float:
        return statistics.median(self.blocks[name])

    def spread(self, name: str) -> tuple[float, float]:
        """20th and 80th percentile of the samples."""
        found = self.samples[name]
        if len(found) < 2:
            return found[0], found[0]
        fifths = statistics.quantiles(found, n=5, method="inclusive")
        return fifths[0], fifths[-1]

    def ratio(self, slow: str, fast: str) -> Ratio:
        import numpy as np

        before, after = (np.array(self.blocks[name]) for name in (fast, slow))
        found = bootstrap.blocks(before, after, LEVEL)
        return Ratio(*(math.exp(v) for v in (found.value, found.low, found.high)))

    def fastest(self, names: Iterable[str]) -> str:
        return min(names, key=self.median)

    def noise(self, name: str) -> float:
        """How far the baseline seems from itself, at most, as a share."""
        found = self.ratio(name, name + REPEAT_SUFFIX)
        return max(found.high, 1 / found.low) - 1


def interleave(
    contestants: Mapping[str, Work],
    clock: Clock,
    *,
    twice: Iterable[str],
    calls: int = 1,
    blocks: int = BLOCKS,
    block_s: float = BLOCK_S,
) -> Timings:
    """Time contestants in turn, after a warm-up of each.

    twice: those that stand in the turn once more, as `NAME again`; calls: what one call of a contestant counts as.
    """
    turn = dict(contestants) | {name + REPEAT_SUFFIX: contestants[name] for name in twice}
    counts = {}
    for name, work in turn.items():
        clock.samples(work, 2)  # what is compiled, loaded or searched at the first call
        each = max(min(clock.samples(work, 3)), 1e-9)
        counts[name] = max(1, min(MAX_SAMPLES, round(block_s / each)))
    found: dict[str, list[list[float]]] = {name: [] for name in turn}
    for _ in range(blocks):
        for name, work in turn.items():
            found[name].append([t / calls for t in clock.samples(work, counts[name])])
    medians = {name: tuple(statistics.median(block) for block in each) for name, each in found.items()}
    return Timings(medians, {name: tuple(s for block in each for s in block) for name, each in found.items()})


def copy_count(nbytes: int, cache_bytes: int) -> int:
    """So many of `nbytes` that none is still in the cache when its turn comes."""
    return max(2, math.ceil(CACHE_MULTIPLE * cache_bytes / nbytes))


def rotate(work: Callable[[T], Any], things: Iterable[T]) -> Work:
    """Work on the next of some copies at each call."""
    turn = cycle(things)
    return lambda: work(next(turn))


class RooflineCost(NamedTuple):
    """What a piece of work asks of a device at least."""

    flops: float
    moved: float
    """Bytes."""


@dataclass(frozen=True)
class Peaks:
    """What a device was measured to do at most, in the same run."""

    bandwidth: float
    """Bytes a second."""
    flops: Mapping[str, float] = field(default_factory=dict)
    """Dense multiply-adds a second count twice, by kind; a kind that is not there is bound by bytes alone."""

    def seconds(self, demand: RooflineCost, kind: str) -> float:
        """The least it can take (Williams et al. 2009, Roofline)."""
        return max(demand.flops / self.flops.get(kind, math.inf), demand.moved / self.bandwidth)


@dataclass(frozen=True)
class Comparison:
    """Who meets in one turn. All of them answer alike, checked before anything is timed."""

    kind: str
    dense: Mapping[str, Work]
    """The baseline is the fastest of these."""
    sparse: Mapping[str, Work]
    demand: tuple[RooflineCost, RooflineCost]
    """Dense, and 2:4."""
    beside: Mapping[str, Work] = field(default_factory=dict)
    """Other columns, that no speedup is taken over."""
    calls: int = 1
    """Products in one call of each: a pass over all copies, say."""
    notes: Mapping[str, Any] = field(default_factory=dict)

    def run(self, clock: Clock, blocks: int = BLOCKS, block_s: float = BLOCK_S) -> Timings:
        return interleave(
            {**self.dense, **self.sparse, **self.beside},
            clock,
            twice=(*self.dense, *self.sparse),
            calls=self.calls,
            blocks=blocks,
            block_s=block_s,
        )


def summarize(contest: Comparison, timings: Timings, peaks: Peaks) -> dict[str, Any]:
    """The row of a contest: seconds of each, the speedup over the fastest dense side, its limit, and what to doubt."""
    dense = timings.fastest(contest.dense)
    sparse = timings.fastest(contest.sparse)
    speedup, noise = timings.ratio(dense, sparse), max(timings.noise(dense), timings.noise(sparse))
    least, less = (peaks.seconds(demand, contest.kind) for demand in contest.demand)
    limit, share = least / less, least / timings.median(dense)
    flags = []
    if share < MIN_PEAK_SHARE:
        flags.append(f"the dense side is at {share:.0%} of the measured peak")
    if abs(speedup.value - 1) <= noise:
        flags.append("no difference beyond the noise")
    return {
        "dense": dense,
        "sparse": sparse,
        "seconds": {name: _times(timings, name) for name in (*contest.dense, *contest.sparse, *contest.beside)},
        "speedup": _round(speedup.value),
        "interval": [_round(speedup.low), _round(speedup.high)],
        "noise": _round(noise),
        "limit": _round(limit),
        "attained": _round(speedup.value / limit),
        "dense_share_of_peak": _round(share),
        "sparse_share_of_peak": _round(less / timings.median(sparse)),
        "flags": flags,
    } | dict(contest.notes)


def _times(timings: Timings, name: str) -> dict[str, float]:
    low, high = timings.spread(name)
    return {"median": _round(timings.median(name)), "p20": _round(low), "p80": _round(high)}


def _round(value: float) -> float:
    return float(f"{value:.4g}")
