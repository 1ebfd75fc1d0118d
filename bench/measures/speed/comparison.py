"""How speeds are compared on any device: interleaved, with a repeated baseline (A/A), on cold caches.

One block of each contestant after another, A B C A' A B C A' ..., so that a machine that slows down slows all of them.
A' is the baseline again: its distance from A is the noise floor, and a speedup within it is none.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, NamedTuple, TypeVar

import numpy as np

from bench.kernels.timing import Clock, Work
from bench.stats import bootstrap

T = TypeVar("T")

BLOCKS = 12
"""A gate needs at least ten pairs."""

BLOCK_S = 0.02
"""Length of a block, about, in seconds."""

MAX_SAMPLES = 200
"""In a block."""

CACHE_MULTIPLE = 3
"""All copies of a weight together are so many times as large as the last cache."""

LEVEL = 0.05

MIN_PEAK_SHARE = 0.7
"""Of the measured peak: a dense baseline below it is slow itself, and flatters the speedup over it."""

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
    """Median of each block."""
    samples: Mapping[str, tuple[float, ...]]
    """All samples."""

    def median(self, name: str) -> float:
        return statistics.median(self.blocks[name])

    def spread(self, name: str) -> tuple[float, float]:
        """20th and 80th percentile of the samples."""
        samples = self.samples[name]
        if len(samples) < 2:
            return samples[0], samples[0]
        fifths = statistics.quantiles(samples, n=5, method="inclusive")
        return fifths[0], fifths[-1]

    def ratio(self, slow: str, fast: str) -> Ratio:
        before, after = (np.array(self.blocks[name]) for name in (fast, slow))
        estimate = bootstrap.estimate_blocks(before, after, LEVEL)
        return Ratio(*(math.exp(v) for v in (estimate.value, estimate.low, estimate.high)))

    def fastest(self, names: Iterable[str]) -> str:
        return min(names, key=self.median)

    def noise(self, name: str) -> float:
        """The largest distance of a contestant from its own repetition that the interval allows, as a share."""
        ratio = self.ratio(name, name + REPEAT_SUFFIX)
        return max(ratio.high, 1 / ratio.low) - 1


def interleave(
    contestants: Mapping[str, Work],
    clock: Clock,
    *,
    repeat: Iterable[str],
    calls: int = 1,
    blocks: int = BLOCKS,
    block_s: float = BLOCK_S,
) -> Timings:
    """Time contestants in turn, after a warm-up of each.

    Args:
        repeat: contestants that are timed a second time in each round, as `NAME again`.
        calls: divide each time by so many; a contestant's call may be a pass over several copies.
    """
    everyone = dict(contestants) | {name + REPEAT_SUFFIX: contestants[name] for name in repeat}
    counts = {}
    for name, work in everyone.items():
        clock.measure(work, 2)  # the first call compiles, loads or searches
        each = max(min(clock.measure(work, 3)), 1e-9)
        counts[name] = max(1, min(MAX_SAMPLES, round(block_s / each)))
    samples: dict[str, list[list[float]]] = {name: [] for name in everyone}
    for _ in range(blocks):
        for name, work in everyone.items():
            samples[name].append([t / calls for t in clock.measure(work, counts[name])])
    medians = {name: tuple(statistics.median(block) for block in each) for name, each in samples.items()}
    return Timings(medians, {name: tuple(s for block in each for s in block) for name, each in samples.items()})


def copy_count(nbytes: int, cache_bytes: int) -> int:
    """How many copies of `nbytes` are needed so that none is still cached when its turn comes again."""
    return max(2, math.ceil(CACHE_MULTIPLE * cache_bytes / nbytes))


def rotate(work: Callable[[T], Any], copies: Iterable[T]) -> Work:
    """A function that does the work on the next copy at each call."""
    turn = cycle(copies)
    return lambda: work(next(turn))


class RooflineCost(NamedTuple):
    """The least that a piece of work costs on any device."""

    flops: float
    bytes_moved: float


@dataclass(frozen=True)
class Peaks:
    """A device's measured peak rates, from the same run."""

    bandwidth: float
    """Bytes per second."""
    flops: Mapping[str, float] = field(default_factory=dict)
    """Dense operations per second, two per multiply-add, by kind. A kind that is missing is bound by bytes alone."""

    def seconds(self, cost: RooflineCost, kind: str) -> float:
        """The least time for the work (Williams et al. 2009, Roofline)."""
        return max(cost.flops / self.flops.get(kind, math.inf), cost.bytes_moved / self.bandwidth)


@dataclass(frozen=True)
class SpeedComparison:
    """Contestants that compute the same result. Kernels and models are checked before they get here; what `torch.compile` makes
    of a whole model is not."""

    kind: str
    dense: Mapping[str, Work]
    """The baseline is the fastest of these."""
    sparse: Mapping[str, Work]
    costs: tuple[RooflineCost, RooflineCost]
    """Dense, and 2:4."""
    others: Mapping[str, Work] = field(default_factory=dict)
    """Further columns; no speedup is computed over them."""
    calls: int = 1
    """Products in one call of a contestant: a pass over all copies, for example."""
    notes: Mapping[str, Any] = field(default_factory=dict)

    def run(self, clock: Clock, blocks: int = BLOCKS, block_s: float = BLOCK_S) -> Timings:
        return interleave(
            {**self.dense, **self.sparse, **self.others},
            clock,
            repeat=(*self.dense, *self.sparse),
            calls=self.calls,
            blocks=blocks,
            block_s=block_s,
        )


def summarize(comparison: SpeedComparison, timings: Timings, peaks: Peaks) -> dict[str, Any]:
    """One row: seconds of each contestant, speedup over the fastest dense one, roofline limit, and flags for doubts."""
    dense = timings.fastest(comparison.dense)
    sparse = timings.fastest(comparison.sparse)
    speedup, noise = timings.ratio(dense, sparse), max(timings.noise(dense), timings.noise(sparse))
    dense_s, sparse_s = (peaks.seconds(cost, comparison.kind) for cost in comparison.costs)
    limit, share = dense_s / sparse_s, dense_s / timings.median(dense)
    flags = []
    if share < MIN_PEAK_SHARE:
        flags.append(f"the dense side is at {share:.0%} of the measured peak")
    if abs(speedup.value - 1) <= noise:
        flags.append("no difference beyond the noise")
    names = (*comparison.dense, *comparison.sparse, *comparison.others)
    return {
        "dense": dense,
        "sparse": sparse,
        "seconds": {name: _times(timings, name) for name in names},
        "speedup": _round(speedup.value),
        "interval": [_round(speedup.low), _round(speedup.high)],
        "noise": _round(noise),
        "limit": _round(limit),
        "attained": _round(speedup.value / limit),
        "dense_share_of_peak": _round(share),
        "sparse_share_of_peak": _round(sparse_s / timings.median(sparse)),
        "flags": flags,
    } | dict(comparison.notes)


def _times(timings: Timings, name: str) -> dict[str, float]:
    low, high = timings.spread(name)
    return {"median": _round(timings.median(name)), "p20": _round(low), "p80": _round(high)}


def _round(value: float) -> float:
    """To four digits."""
    return float(f"{value:.4g}")
