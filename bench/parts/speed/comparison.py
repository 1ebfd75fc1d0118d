"""Comparison of speeds on any device: interleaved, with a repeated baseline (A/A), on cold caches.

Blocks of all contestants alternate, A B C A' A B C A' ..., so that a machine that slows down slows
all of them. A' is the baseline again. Its distance from A is the noise floor, and a speedup within
it is no speedup.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain, cycle
from typing import Any, TypeVar

import numpy as np

from bench.measures.contract import Readings
from bench.parts.packed24.timing import Clock, Work
from bench.parts.speed.roofline import Costs, RooflineCost
from bench.results.record import Item, Reading
from bench.stats import bootstrap

T = TypeVar("T")
StepFactory = Callable[[Any], Work]
"""Function from a model to one step of it, a function without arguments."""
Contestants = tuple[dict[str, Work], dict[str, Work], dict[str, Work]]
"""Dense, 2:4 and other contestants, by name."""

BLOCKS = 12
"""Number of blocks of each contestant. A gate needs at least ten pairs."""
BLOCK_S = 0.02
"""Approximate length of a block in seconds."""
MAX_SAMPLES = 200
"""Largest number of samples in a block."""
CACHE_MULTIPLE = 3
"""Size of all copies of a weight together, in sizes of the last cache."""
MIN_PEAK_SHARE = 0.7
"""Fraction of the measured peak below which a dense baseline is slow and makes the speedup too
large."""
MAX_NOISE = 0.25
"""Distance of a contestant from its own repetition above which a timing is not steady, as a
fraction."""
REPEAT_SUFFIX = " again"


@dataclass(frozen=True)
class Timings:
    """Seconds of each contestant: the median of each block, and all samples."""

    blocks: Mapping[str, tuple[float, ...]]
    samples: Mapping[str, tuple[float, ...]]

    def median(self, name: str) -> float:
        return statistics.median(self.blocks[name])

    def spread(self, name: str) -> tuple[float, float]:
        """Return the 20th and 80th percentile of the samples."""
        low, high = np.percentile(self.samples[name], (20, 80))
        return float(low), float(high)

    def ratio(self, slow: str, fast: str) -> bootstrap.BlockRatio:
        return bootstrap.ratio_of_blocks(np.array(self.blocks[slow]), np.array(self.blocks[fast]))

    def fastest(self, names: Iterable[str]) -> str:
        return min(names, key=self.median)

    def noise(self, name: str) -> float:
        """Return the largest distance of a contestant from its own repetition in the interval, as a
        fraction."""
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
    after_round: Callable[[], object] = lambda: None,
) -> Timings:
    """Time contestants in turn, after a warm-up of each.

    repeat: contestants that are timed a second time in each round, as `NAME again`. calls: products
    in one call of a contestant, by which each time is divided. after_round: called after a block of
    every contestant.
    """
    everyone = dict(contestants) | {name + REPEAT_SUFFIX: contestants[name] for name in repeat}
    counts = {}
    for name, work in everyone.items():
        # The first call compiles, loads or searches.
        clock.measure(work, 2)
        each = max(min(clock.measure(work, 3)), 1e-9)
        counts[name] = max(1, min(MAX_SAMPLES, round(block_s / each)))
    samples: dict[str, list[list[float]]] = {name: [] for name in everyone}
    for _ in range(blocks):
        for name, work in everyone.items():
            samples[name].append([t / calls for t in clock.measure(work, counts[name])])
        after_round()
    medians, flat = {}, {}
    for name, blocks_of_one in samples.items():
        medians[name] = tuple(map(statistics.median, blocks_of_one))
        flat[name] = tuple(chain.from_iterable(blocks_of_one))
    return Timings(medians, flat)


def copy_count(nbytes: int, cache_bytes: int) -> int:
    """Return the number of copies of `nbytes` of which none is still cached at its next turn."""
    return max(2, math.ceil(CACHE_MULTIPLE * cache_bytes / nbytes))


def rotate(work: Callable[[T], Any], copies: Iterable[T]) -> Work:
    """Return a function that does the work on the next copy at each call."""
    turn = cycle(copies)
    return lambda: work(next(turn))


@dataclass(frozen=True)
class Peaks:
    """The peak rates of a device, measured in the same run."""

    bandwidth: float
    """Memory bandwidth in bytes per second."""
    flops: Mapping[str, float] = field(default_factory=dict)
    """Dense operations per second by kind, two per multiply-add. A missing kind is bound by bytes
    alone."""

    def seconds(self, cost: RooflineCost, kind: str) -> float:
        """Return the least time for the work (Williams et al. 2009, Roofline)."""
        return max(cost.flops / self.flops.get(kind, math.inf), cost.bytes_moved / self.bandwidth)


@dataclass(frozen=True)
class SpeedComparison:
    """Contestants. Those that compute the same result are checked before."""

    kind: str
    dense: Mapping[str, Work]
    """Dense contestants. The fastest is the baseline."""
    sparse: Mapping[str, Work]
    costs: Costs
    others: Mapping[str, Work] = field(default_factory=dict)
    """Contestants in further columns, without a speedup over them."""
    calls: int = 1
    """Products in one call of a contestant, for example one for each copy."""
    notes: Mapping[str, Any] = field(default_factory=dict)

    def run(self, clock: Clock, blocks: int = BLOCKS, block_s: float = BLOCK_S) -> Timings:
        works, repeat = {**self.dense, **self.sparse, **self.others}, (*self.dense, *self.sparse)
        return interleave(
            works, clock, repeat=repeat, calls=self.calls, blocks=blocks, block_s=block_s
        )


def summarize(comparison: SpeedComparison, timings: Timings, peaks: Peaks) -> dict[str, Any]:
    """Return a row: seconds of each contestant, speedup over the fastest dense one, roofline limit,
    and flags."""
    dense = timings.fastest(comparison.dense)
    sparse = timings.fastest(comparison.sparse)
    speedup, noise = timings.ratio(dense, sparse), max(timings.noise(dense), timings.noise(sparse))
    dense_s, sparse_s = (peaks.seconds(cost, comparison.kind) for cost in comparison.costs)
    limit, share = dense_s / sparse_s, dense_s / timings.median(dense)
    flags = []
    if share < MIN_PEAK_SHARE:
        flags.append(f"the dense side is at {share:.0%} of the measured peak")
    if noise > MAX_NOISE:
        flags.append(f"not steady: two timings of one side differ by {noise:.0%}")
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


def to_readings(
    timings: Timings,
    metric: str,
    fast: str,
    slow: str | None = None,
    speedup: float = 0.0,
    *,
    tokens: int | None = None,
    notes: Mapping[str, Any],
) -> Readings:
    """Return readings of a contestant, with an item for each block.

    slow: dense contestant beside it, or None. speedup: of `fast` over `slow`. tokens: of a call,
    whose number per second is read. None: seconds are read.
    """

    def value(seconds: float) -> float:
        return seconds if tokens is None else tokens / seconds

    blocks = timings.blocks[fast]
    values = [Reading(metric, value(timings.median(fast)), n=len(blocks))]
    beside: list[dict[str, float]] = [{} for _ in blocks]
    if slow:
        values.append(Reading(f"{metric}_dense", value(timings.median(slow))))
        values.append(Reading("speedup", speedup))
        pairs = zip(timings.blocks[slow], blocks, strict=True)
        beside = [{f"{metric}_dense": value(dense), "speedup": dense / own} for dense, own in pairs]
    rows = enumerate(zip(blocks, beside, strict=True))
    items = tuple(Item(str(i), str(i), value(own), 1.0, row) for i, (own, row) in rows)
    return Readings(tuple(values), items, notes=notes)


def _times(timings: Timings, name: str) -> dict[str, float]:
    low, high = timings.spread(name)
    return {"median": _round(timings.median(name)), "p20": _round(low), "p80": _round(high)}


def _round(value: float) -> float:
    """Round to four digits."""
    return float(f"{value:.4g}")
