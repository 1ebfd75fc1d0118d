"""Noise between calibration seeds: measured on rows with several seeds, and added to estimates."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from bench.stats.bootstrap import Estimate, satterthwaite, students_p, students_t


@dataclass(frozen=True)
class SeedNoise:
    """Variance between seeds of a number, or of the difference of two.

    freedom: its degrees of freedom, infinite if it is assumed.
    """

    variance: float
    freedom: float = math.inf

    @property
    def deviation(self) -> float:
        return math.sqrt(self.variance)


def pool(samples: Iterable[SeedNoise]) -> SeedNoise:
    """Pool variances of several rows into that of one kind of row, each weighted by its degrees of
    freedom."""
    samples = list(samples)
    freedom = math.fsum(s.freedom for s in samples)
    return SeedNoise(math.fsum(s.variance * s.freedom for s in samples) / freedom, freedom)


def add_seed_noise(
    estimate: Estimate, noise: SeedNoise, level: float, margin: float = 0.0
) -> Estimate:
    """Add the noise between seeds to an estimate. No interval gets narrower, and no p value
    smaller.

    The squares of the arms of the two intervals add up (MOVER: Zou and Donner, Stat. Med. 27, 2008,
    eq. 3). The p value is Student's, of the sum of the variances, with Satterthwaite's degrees of
    freedom.

    An estimate from several seeds takes the larger of the two variances between seeds, because that
    of two or three seeds is too often small by chance (benchmarks/ties.py).

    Args:
        level: 1 - coverage of the interval.
        margin: change that `p_margin` tests.
    """
    own = estimate.seed_share * estimate.stderr**2
    if noise.variance <= own:
        return estimate
    items = estimate.stderr**2 - own
    total = items + noise.variance
    freedom = satterthwaite([(items, estimate.freedom), (noise.variance, noise.freedom)])
    stderr = math.sqrt(total)
    p, p_margin = (students_p((estimate.value - null) / stderr, freedom) for null in (0.0, margin))
    out = replace(
        estimate, p=max(estimate.p, p), p_margin=max(estimate.p_margin, p_margin), alone=estimate
    )
    if estimate.seeds > 1:
        half = students_t(level, freedom) * stderr
        low, high = (
            min(estimate.low, estimate.value - half),
            max(estimate.high, estimate.value + half),
        )
        return replace(
            out,
            low=low,
            high=high,
            stderr=stderr,
            seed_share=noise.variance / total,
            freedom=freedom,
        )
    arm = students_t(level, noise.freedom) * noise.deviation
    return replace(
        out,
        stderr=stderr,
        low=estimate.value - math.hypot(estimate.value - estimate.low, arm),
        high=estimate.value + math.hypot(estimate.high - estimate.value, arm),
        seed_share=noise.variance / total,
        freedom=freedom,
    )
