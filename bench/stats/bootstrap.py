"""Estimate a change from paired scores: a value with an interval and a p value.

Every estimate is after minus before: of logarithms if the change is a ratio, otherwise of the
values themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
DRAWS_OVER_LEVEL = 200
"""Draws of a bootstrap, times the level of its interval: 100 draws are in each tail."""
MAX_DRAWS = 100_000
"""Largest number of draws. Beyond the last quantile with 100 draws, tails are Student's, scaled to
that quantile."""
MIN_DRAWS = 1000
MAX_COUNTS = 20_000_000
"""Largest product of draws and clusters, for which 320 MB are enough. Texts with more than 200
articles have fewer draws."""
CHUNK = 20_000
ROUNDED = 1e-12
"""Variance of a draw, relative to that of the estimate, that is rounding alone."""
MAX_EXPONENT = 709.0
"""Largest logarithm, rounded down, of a number that a float holds."""
RESIDUAL_POWER = 1.5
"""Power of an article's tokens with which its squared residual grows: 1 if its windows were
independent (Kish), 2 if they shared one effect. Over pairs of similar rows it is 0.7 in
results/smollm2 and 1.5 in results/tiny-methods: the larger counts."""


@dataclass(frozen=True)
class Estimate:
    """A change. value, stderr, low, high: after minus before. p: two-sided, for no difference."""

    value: float
    stderr: float
    low: float
    high: float
    p: float
    n: int
    """Number of `unit`: articles, questions, or blocks of timings."""
    unit: str
    seeds: int = 1
    seed_share: float = 0.0
    """Share of the variance that is between calibration seeds."""
    freedom: float = math.inf
    """Degrees of freedom of the standard error."""
    p_margin: float = 1.0
    """Two-sided p value for a change that is equal to the margin, or to 0 without a margin."""
    alone: Estimate | None = None
    """The estimate for the seeds that were run, where the noise between seeds of other rows was
    added to this one."""
    lost: int | None = None
    gained: int | None = None
    """Questions that were wrong and are now right, over all seeds. `lost` is the reverse."""

    def effect(self, is_ratio: bool) -> tuple[float, float | None, float | None]:
        """Return the ratio or difference, and the ends of its interval. They are None if no float
        holds them."""
        value = math.exp(self.value) if is_ratio else self.value
        if self.high >= (MAX_EXPONENT if is_ratio else math.inf):
            return value, None, None
        if is_ratio:
            return (value, math.exp(self.low), math.exp(self.high))
        return (value, self.low, self.high)

    def required_n(self, loss: float, half: float, margin: float) -> tuple[int, str] | None:
        """Return the n that would decide if the estimate stayed the same: its interval would
        exclude the margin.

        The half-width of an interval falls as 1 / sqrt(n), where n counts the unit with most of the
        variance. More of this unit leave the variance of the other.

        Args:
            loss: the estimate, positive if worse.
            half: half-width of its interval, on the side that matters.

        Returns:
            n and its unit, or None where no n of either unit decides: the estimate is on the
            margin, or the other unit alone leaves too much.
        """
        gap = abs(loss - margin)
        if gap <= 0 or half <= 0:
            return None
        wanted = (gap / half) ** 2
        units = [(self.n, 1 - self.seed_share, self.unit), (self.seeds, self.seed_share, "seeds")]
        for n, own, unit in sorted(units, key=lambda one: -one[1]):
            left = wanted - (1 - own)  # of the variance, for this unit
            if own and left > 0 and n * own / left < 1e7:
                return math.ceil(n * own / left), unit
        return None


class VarianceParts(NamedTuple):
    """The variance of a ratio estimator, between clusters and between seeds."""

    clusters: float
    seeds: float

    @property
    def total(self) -> float:
        return self.clusters + self.seeds


def variance_parts(differences: Array, weights: Array) -> VarianceParts:
    """Return the variance of the mean difference, as a ratio estimator.

    differences: sums by cluster [seeds, clusters]; weights: [clusters].

    Between clusters: C / (C - 1) sum(e_c^2) / (sum w)^2, e_c the residual of the ratio estimator
    (Cochran, Sampling Techniques, 1977, eq. 2.39 with n = C); between seeds: s^2 / S of their
    estimates.
    """
    mean = differences.mean(0)
    count = len(weights)
    residuals = mean - mean.sum() / weights.sum() * weights
    between = count / (count - 1) * float((residuals**2).sum()) / float(weights.sum()) ** 2
    if len(differences) == 1:
        return VarianceParts(between, 0.0)
    each = differences.sum(1) / weights.sum()
    return VarianceParts(between, float(each.var(ddof=1)) / len(each))


def effective_size(weights: Array) -> float:
    """Return how many equal clusters estimate a variance as well: (sum v)^2 / sum v^2, v = w **
    RESIDUAL_POWER.

    These are Satterthwaite's degrees of freedom of a sum of squares with variances v (Biometrics
    Bulletin 2, 1946).
    """
    variances = weights**RESIDUAL_POWER
    return float(variances.sum() ** 2 / (variances**2).sum())


def satterthwaite(parts: Sequence[tuple[float, float]]) -> float:
    """Return the degrees of freedom of a sum of variances, each given with its own (Biometrics
    Bulletin 2, 1946)."""
    rest = sum(variance**2 / freedom for variance, freedom in parts)
    if rest:
        return sum(variance for variance, _ in parts) ** 2 / rest
    return math.inf


def degrees_of_freedom(between: VarianceParts, weights: Array, seeds: int) -> float:
    """Return the degrees of freedom of the sum of both variances."""
    of_clusters = (between.clusters, max(effective_size(weights) - 1, 0.5))
    return satterthwaite([of_clusters] if seeds == 1 else [of_clusters, (between.seeds, seeds - 1)])


def studentized_bootstrap(
    differences: Array, weights: Array, level: float, *, margin: float = 0.0
) -> Estimate:
    """Estimate the mean difference as a ratio, by a studentized bootstrap (Efron and Tibshirani
    1993, ch. 12.5).

    Draw seeds first, then clusters, and divide each draw by its own standard error. No tail is
    lighter than Student's with Satterthwaite's degrees of freedom: with 13 unequal articles, the
    bootstrap alone had 6 false alarms in 1,000 tests instead of 1.25 (benchmarks/gate.py).

    Args:
        differences: [seeds, clusters], sums of after minus before over the items of a cluster.
        weights: [clusters], what the sums are divided by (tokens).
        level: 1 - coverage.
        margin: change that `p_margin` tests.
    """
    found = replace(estimate_means(differences, level, weights, margin=margin), unit="articles")
    value, stderr, freedom = found.value, found.stderr, found.freedom
    if stderr == 0:
        return found
    draws = min(
        MAX_DRAWS,
        int(np.ceil(DRAWS_OVER_LEVEL / level)),
        max(MIN_DRAWS, MAX_COUNTS // len(weights)),
    )
    sample = _draws(differences - value * weights, weights, draws, stderr)
    low, high = (
        value - _quantile(sample, tail, freedom) * stderr for tail in (1 - level / 2, level / 2)
    )
    p, p_margin = (_p(sample, (value - null) / stderr, freedom) for null in (0.0, margin))
    return replace(found, low=low, high=high, p=p, p_margin=p_margin)


@lru_cache(maxsize=4)
def _resamples(draws: int, size: int, stream: int) -> Array:
    """Return how often each of `size` is drawn: [draws, size]. A gate must give the same result
    twice, so seeds are fixed."""
    draw = np.random.default_rng([size, stream]).multinomial(
        size, np.full(size, 1 / size), size=draws
    )
    counts: Array = draw.astype(np.float64)
    counts.flags.writeable = False
    return counts


def _draws(centred: Array, w: Array, draws: int, stderr: float) -> Array:
    """Return the t of each draw, sorted: [draws]. centred: differences whose estimate is 0, [seeds,
    clusters]. stderr: of the estimate."""
    seeds, size = centred.shape
    columns, rows = _resamples(draws, size, 0), _resamples(draws, seeds, 1)
    parts = [
        _t(centred, w, columns[a : a + CHUNK], rows[a : a + CHUNK], stderr)
        for a in range(0, draws, CHUNK)
    ]
    out: Array = np.sort(np.concatenate(parts))
    return out


def _t(centred: Array, w: Array, columns: Array, rows: Array, stderr: float) -> Array:
    """Return the t of each draw: [draws]. centred: [seeds, clusters]. columns: [draws, clusters].
    rows: [draws, seeds].

    A draw of one seed that changed nothing has a mean and no variance but rounding, which would
    be an end of the interval: it is divided by the standard error of the estimate.
    """
    seeds, size = centred.shape
    if seeds == 1:
        mean = centred[0]
        parts = np.stack([w, w**2, mean, mean**2, mean * w])
        total, weighted, sums, squares, cross = parts @ columns.T
    else:
        total, weighted = np.stack([w, w**2]) @ columns.T
        drawn = rows @ centred / seeds  # [draws, clusters]
        sums, squares = (columns * drawn).sum(1), (columns * drawn**2).sum(1)
        cross = (columns * drawn) @ w
    value = sums / total
    rest = squares - 2 * value * cross + value**2 * weighted
    variance = size / (size - 1) * np.maximum(rest, 0.0) / total**2
    if seeds > 1:
        each = columns @ centred.T / total[:, None]  # [draws, seeds]
        mean = (rows * each).sum(1) / seeds
        variance += np.maximum((rows * each**2).sum(1) - seeds * mean**2, 0.0) / (seeds - 1) / seeds
    variance[variance <= ROUNDED * stderr**2] = stderr**2
    t: Array = value / np.sqrt(variance)
    return t


def _sorted_quantile(sample: Array, at: float) -> float:
    """Return np.quantile of sorted numbers."""
    place = at * (len(sample) - 1)
    k = min(int(place), len(sample) - 2)
    return float(sample[k] + (place - k) * (sample[k + 1] - sample[k]))


def _stretch(sample: Array, upper: bool, freedom: float) -> float:
    """Return the last bootstrap quantile with enough draws, divided by Student's, but at least
    1."""
    from scipy.special import stdtrit

    tail = DRAWS_OVER_LEVEL / 2 / len(sample)
    edge = _sorted_quantile(sample, 1 - tail) if upper else -_sorted_quantile(sample, tail)
    return max(1.0, float(edge / stdtrit(freedom, 1 - tail)))


def _quantile(sample: Array, at: float, freedom: float) -> float:
    from scipy.special import stdtrit

    students = float(stdtrit(freedom, at))
    if min(at, 1 - at) * len(sample) >= DRAWS_OVER_LEVEL / 2 - 1e-6:
        bootstrapped = _sorted_quantile(sample, at)
        if at > 0.5:
            return max(students, bootstrapped)
        return min(students, bootstrapped)
    return students * _stretch(sample, at > 0.5, freedom)


def _p(sample: Array, t: float, freedom: float) -> float:
    """Return the two-sided p: twice the smaller tail, because the interval has equal tails."""
    from scipy.special import stdtr

    above = len(sample) - int(np.searchsorted(sample, t, side="left"))
    below = int(np.searchsorted(sample, t, side="right"))
    fewer = min(above, below)
    if fewer < DRAWS_OVER_LEVEL / 2:
        return min(
            1.0, 2 * float(stdtr(freedom, -abs(t) / _stretch(sample, above < below, freedom)))
        )
    return min(1.0, max(2 * float(stdtr(freedom, -abs(t))), 2 * (1 + fewer) / (1 + len(sample))))


def exact(value: float, n: int, unit: str, seeds: int = 1, margin: float = 0.0) -> Estimate:
    """Return a change without noise."""
    p, p_margin = (float(value == null) for null in (0.0, margin))
    return Estimate(value, 0.0, value, value, p, n, unit, seeds, p_margin=p_margin)


def estimate_means(
    differences: Array, level: float, weights: Array | None = None, *, margin: float = 0.0
) -> Estimate:
    """Estimate the mean of paired differences over questions and seeds, with Student's t: fast for
    thousands of them.

    The variances between questions and between seeds add up. The degrees of freedom are
    Satterthwaite's.

    Args:
        differences: [seeds, questions], or sums over the questions of an article, [seeds,
            articles].
        level: 1 - coverage.
        weights: [articles], the numbers of their questions.
        margin: change that `p_margin` tests.
    """
    seeds, count = differences.shape
    if weights is None:
        weights = np.ones(count)
    value = float(differences.mean(0).sum() / weights.sum())
    between = variance_parts(differences, weights)
    if between.total == 0:
        return exact(value, count, "questions", seeds, margin)
    freedom = degrees_of_freedom(between, weights, seeds)
    scale = between.total**0.5
    half = students_t(level, freedom) * scale
    return Estimate(
        value=value,
        stderr=scale,
        low=value - half,
        high=value + half,
        p=students_p(value / scale, freedom),
        n=count,
        unit="questions",
        seeds=seeds,
        seed_share=between.seeds / between.total,
        freedom=freedom,
        p_margin=students_p((value - margin) / scale, freedom),
    )


@lru_cache(maxsize=2**16)
def students_t(level: float, freedom: float) -> float:
    """Return the t that both tails together exceed with probability `level`. With infinite degrees
    of freedom, it is normal."""
    from scipy.special import ndtri, stdtrit

    at = 1 - level / 2
    return float(stdtrit(freedom, at) if math.isfinite(freedom) else ndtri(at))


def students_p(t: float, freedom: float) -> float:
    """Return the two-sided p of Student's t, or of a normal deviate with infinite degrees of
    freedom."""
    from scipy.special import ndtr, stdtr

    return 2 * float(stdtr(freedom, -abs(t)) if math.isfinite(freedom) else ndtr(-abs(t)))


def estimate_blocks(before: Array, after: Array, level: float, *, margin: float = 0.0) -> Estimate:
    """Estimate ln of the ratio of timings, paired by block, with Student's t.

    At small levels, a percentile bootstrap of ten blocks has ten times too many false alarms.
    Student's t has not.

    before, after: medians of interleaved blocks, [blocks] or [runs, blocks]. The blocks of a run
    share the state of the machine, so several runs are compared by their means, which count as
    seeds.
    """
    changes = np.atleast_2d(np.log(after / before))
    if len(changes) == 1:
        return replace(estimate_means(changes, level, margin=margin), unit="blocks")
    found = estimate_means(changes.mean(1)[None], level, margin=margin)
    return replace(found, n=changes.shape[1], unit="blocks", seeds=len(changes), seed_share=1.0)


class BlockRatio(NamedTuple):
    """A ratio of timings over blocks, with Student's interval of its mean ln."""

    value: float
    low: float
    high: float


def ratio_of_blocks(slow: Array, fast: Array, level: float = 0.05) -> BlockRatio:
    """Return slow / fast, as `estimate_blocks` does ln of it."""
    estimate = estimate_blocks(fast, slow, level)
    with np.errstate(over="ignore"):
        return BlockRatio(
            *(float(np.exp(x)) for x in (estimate.value, estimate.low, estimate.high))
        )


def wider(one: Estimate, other: Estimate) -> Estimate:
    """Widen the first of two estimates of one change to the uncertainty of the other."""
    return replace(
        one,
        stderr=max(one.stderr, other.stderr),
        low=min(one.low, other.low),
        high=max(one.high, other.high),
        p=max(one.p, other.p),
        freedom=min(one.freedom, other.freedom),
        p_margin=max(one.p_margin, other.p_margin),
    )
