"""Estimates from pairs: what a change did to a number, with an interval and a p value.

Every estimate is after minus before: of ln values where the number is a ratio, of the values themselves elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

DRAWS_OVER_LEVEL = 200
"""Draws of a bootstrap for an interval that misses with probability `level`: 200 / level, 100 in each tail."""
MOST_DRAWS = 100_000
"""Beyond it the tails are Student's, stretched to meet the bootstrap's where that still has 100 draws."""
CHUNK = 20_000


@dataclass(frozen=True)
class Estimate:
    """value, stderr, low, high: after minus before. p: two-sided, of no difference at all."""

    value: float
    stderr: float
    low: float
    high: float
    p: float
    n: int
    """Of `unit`: articles, blocks of windows, questions, or blocks of timings."""
    unit: str
    seeds: int = 1
    seed_share: float = 0.0
    """How much of the variance is between calibration seeds."""
    lost: int | None = None
    gained: int | None = None
    """Questions that were right and are wrong, and the other way round; over all seeds."""


class Spread(NamedTuple):
    """Variance of a ratio estimator: between clusters, and between seeds."""

    clusters: float
    seeds: float

    @property
    def total(self) -> float:
        return self.clusters + self.seeds


def spread(differences: Array, weights: Array) -> Spread:
    """differences: sums by cluster [seeds, clusters]; weights: [clusters].

    Between clusters: C / (C - 1) sum(e_c^2) / (sum w)^2, e_c the residual of the ratio estimator (Cochran, Sampling
    Techniques, 1977, eq. 2.39 with n = C); between seeds: s^2 / S of their estimates.
    """
    mean = differences.mean(0)
    count = len(weights)
    residuals = mean - mean.sum() / weights.sum() * weights
    between = count / (count - 1) * float((residuals**2).sum()) / float(weights.sum()) ** 2
    if len(differences) == 1:
        return Spread(between, 0.0)
    each = differences.sum(1) / weights.sum()
    return Spread(between, float(each.var(ddof=1)) / len(each))


def studentized(
    differences: Array, weights: Array, level: float, *, unit: str = "articles", assumed: float = 0.0
) -> Estimate:
    """Mean difference as a ratio estimator, with a studentized bootstrap (Efron and Tibshirani 1993, ch. 12.5).

    differences: [seeds, clusters], sums over a cluster's items of after minus before; weights: [clusters], what they
    are divided by (tokens); level: 1 - coverage; assumed: standard deviation between seeds, used in place of an
    estimate where there is one seed of several that could have been. Seeds are drawn first, then clusters; each draw is
    divided by its own standard error.
    """
    seeds, clusters = differences.shape
    value = float(differences.mean(0).sum() / weights.sum())
    between = spread(differences, weights)
    if between.total == 0:
        return Estimate(value, 0.0, value, value, 1.0 if value == 0 else 0.0, clusters, unit, seeds)
    scale = between.total**0.5
    drawn = _draws(differences - value * weights, weights, _count(level))
    widened = (between.total + assumed**2) ** 0.5
    low, high = (_quantile(drawn, tail, clusters - 1) for tail in (1 - level / 2, level / 2))
    return Estimate(
        value=value,
        stderr=widened,
        low=value - low * widened,
        high=value - high * widened,
        p=_p(drawn, value / widened, clusters - 1),
        n=clusters,
        unit=unit,
        seeds=seeds,
        seed_share=(between.seeds + assumed**2) / widened**2 if scale else 0.0,
    )


def _count(level: float) -> int:
    return min(MOST_DRAWS, int(np.ceil(DRAWS_OVER_LEVEL / level)))


@lru_cache(maxsize=4)
def _resamples(draws: int, size: int, stream: int) -> Array:
    """How often each of `size` is drawn: [draws, size]. The same for every cell, so that a gate repeats itself."""
    counts = np.random.default_rng([size, stream]).multinomial(size, np.full(size, 1 / size), size=draws)
    counts.flags.writeable = False
    return counts.astype(np.float64)


def _draws(centred: Array, w: Array, draws: int) -> Array:
    """The bootstrap's t: [draws], sorted. centred: differences whose estimate is 0."""
    seeds, size = centred.shape
    columns = _resamples(draws, size, 0)
    rows = _resamples(draws, seeds, 1)
    parts = [_t(centred, w, columns[a : a + CHUNK], rows[a : a + CHUNK]) for a in range(0, draws, CHUNK)]
    out: Array = np.sort(np.concatenate(parts))
    return out


def _t(centred: Array, w: Array, columns: Array, rows: Array) -> Array:
    """centred: [seeds, clusters]; columns: [draws, clusters]; rows: [draws, seeds]."""
    seeds, size = centred.shape
    total = columns @ w
    if seeds == 1:
        mean = centred[0]
        sums, squares, cross = (columns @ np.stack([mean, mean**2, mean * w], axis=1)).T
    else:
        drawn = rows @ centred / seeds  # [draws, clusters]
        sums, squares = (columns * drawn).sum(1), (columns * drawn**2).sum(1)
        cross = (columns * drawn) @ w
    value = sums / total
    rest = squares - 2 * value * cross + value**2 * (columns @ w**2)
    variance = size / (size - 1) * np.maximum(rest, 0.0) / total**2
    if seeds > 1:
        each = columns @ centred.T / total[:, None]  # [draws, seeds]
        mean = (rows * each).sum(1) / seeds
        variance += np.maximum((rows * each**2).sum(1) - seeds * mean**2, 0.0) / (seeds - 1) / seeds
    with np.errstate(divide="ignore", invalid="ignore"):
        t: Array = value / np.sqrt(variance)
    return np.nan_to_num(t, nan=0.0, posinf=np.finfo(float).max, neginf=-np.finfo(float).max)


def _stretch(drawn: Array, upper: bool, freedom: int) -> float:
    """The bootstrap's last sound quantile over Student's, never below 1."""
    from scipy.special import stdtrit

    tail = DRAWS_OVER_LEVEL / 2 / len(drawn)
    edge = np.quantile(drawn, 1 - tail) if upper else -np.quantile(drawn, tail)
    return max(1.0, float(edge / stdtrit(freedom, 1 - tail)))


def _quantile(drawn: Array, at: float, freedom: int) -> float:
    from scipy.special import stdtrit

    tail = min(at, 1 - at)
    if tail * len(drawn) >= DRAWS_OVER_LEVEL / 2 - 1e-6:
        return float(np.quantile(drawn, at))
    return float(stdtrit(freedom, at) * _stretch(drawn, at > 0.5, freedom))


def _p(drawn: Array, t: float, freedom: int) -> float:
    """Two-sided: twice the smaller tail, as the interval's two tails are equal."""
    above = len(drawn) - int(np.searchsorted(drawn, t, side="left"))
    below = int(np.searchsorted(drawn, t, side="right"))
    fewer = min(above, below)
    if fewer < DRAWS_OVER_LEVEL / 2 and len(drawn) >= MOST_DRAWS:
        from scipy.special import stdtr

        return min(1.0, 2 * float(stdtr(freedom, -abs(t) / _stretch(drawn, above < below, freedom))))
    return min(1.0, 2 * (1 + fewer) / (1 + len(drawn)))


def means(differences: Array, level: float, *, unit: str = "questions") -> Estimate:
    """Mean of paired differences over items and seeds by Student's t: closed, for items by the thousand.

    differences: [seeds, items]. The variances between items and between seeds add up; the degrees of freedom are
    Satterthwaite's (Biometrics Bulletin 2, 1946).
    """
    from scipy.special import stdtr, stdtrit

    seeds, items = differences.shape
    value = float(differences.mean())
    between = spread(differences, np.ones(items))
    if between.total == 0:
        return Estimate(value, 0.0, value, value, 1.0 if value == 0 else 0.0, items, unit, seeds)
    parts = between.clusters**2 / (items - 1) + (between.seeds**2 / (seeds - 1) if seeds > 1 else 0.0)
    freedom = between.total**2 / parts
    scale = between.total**0.5
    half = float(stdtrit(freedom, 1 - level / 2)) * scale
    p = 2 * float(stdtr(freedom, -abs(value) / scale))
    share = between.seeds / between.total
    return Estimate(value, scale, value - half, value + half, p, items, unit, seeds, share)


def blocks(before: Array, after: Array, level: float) -> Estimate:
    """ln ratio of timings, block by block, with Student's t. before, after: medians of interleaved blocks [blocks].

    A percentile bootstrap of ten blocks errs ten times too often at small levels; Student's t does not.
    """
    return replace(means(np.log(after / before)[None], level), unit="blocks")
