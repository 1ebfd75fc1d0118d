"""Noise between calibration seeds: measured on rows with several seeds, and added to estimates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

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


class ModeratedNoise(NamedTuple):
    """Noise by group, and that of a group without seeds."""

    groups: dict[str, SeedNoise]
    other: SeedNoise

    def of(self, group: str) -> SeedNoise:
        """Return the noise of a group, which may have no seeds."""
        return self.groups.get(group, self.other)


def moderate(groups: Mapping[str, SeedNoise]) -> ModeratedNoise:
    """Return the noise of each group, from its own seeds and from how much the groups differ.

    Empirical Bayes: the variances of the groups scatter around a prior (Smyth, Stat. Appl. Genet.
    Mol. Biol. 3, 2004, art. 3). Two degrees of freedom say little alone, and the mean of all groups
    is wrong for each. A group without seeds has the prior. Groups of equal draws have no part in
    it, and no noise.
    """
    noisy = {name: noise for name, noise in groups.items() if noise.variance}
    if not noisy:
        return ModeratedNoise(dict(groups), SeedNoise(0.0))
    prior = _find_prior(list(noisy.values()))
    if prior is None:
        pooled = pool(noisy.values())
        return ModeratedNoise({**groups, **dict.fromkeys(noisy, pooled)}, pooled)
    moderated = {name: pool([own, prior]) for name, own in noisy.items()}
    return ModeratedNoise({**groups, **moderated}, prior)


def _find_prior(groups: Sequence[SeedNoise]) -> SeedNoise | None:
    """Return the scaled inverse chi-square that variances of groups are draws of.

    Its degrees of freedom are few if the groups differ much. None: they do not differ more than by
    chance, or are fewer than three.
    """
    from scipy.special import digamma, polygamma

    if len(groups) < 3:
        return None
    halves = np.array([noise.freedom for noise in groups]) / 2
    logs = np.log([noise.variance for noise in groups]) - digamma(halves) + np.log(halves)
    excess = float(logs.var(ddof=1) - polygamma(1, halves).mean())
    if excess <= polygamma(1, halves.sum()):
        return None
    half = _inverse_trigamma(excess)
    log_variance = logs.mean() + digamma(half) - math.log(half)
    return SeedNoise(math.exp(log_variance), 2 * half)


def _inverse_trigamma(value: float) -> float:
    """Return x of trigamma(x) = value, by Newton's method for 1 / trigamma (Smyth 2004,
    appendix)."""
    from scipy.special import polygamma

    x = 0.5 + 1 / value
    for _ in range(50):
        now = float(polygamma(1, x))
        x += now * (1 - now / value) / float(polygamma(2, x))
    return x


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
    # A pool of these seeds alone has their variance but for the last bits, which processors round
    # differently.
    if noise.variance <= own * (1 + 1e-9):
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
