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
MAX_DRAWS = 100_000
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


class VarianceParts(NamedTuple):
    """Variance of a ratio estimator: between clusters, and between seeds."""

    clusters: float
    seeds: float

    @property
    def total(self) -> float:
        return self.clusters + self.seeds


def variance_parts(differences: Array, weights: Array) -> VarianceParts:
    """differences: sums by cluster [seeds, clusters]; weights: [clusters].

    Between clusters: C / (C - 1) sum(e_c^2) / (sum w)^2, e_c the residual of the ratio estimator (Cochran, Sampling
    Techniques, 1977, eq. 2.39 with n = C); between seeds: s^2 / S of their estimates.
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
    """As how many even clusters these uneven ones count: (sum w)^2 / sum w^2 (Kish, Survey Sampling, 1965)."""
    return float(weights.sum() ** 2 / (weights**2).sum())


def _degrees_of_freedom(between: VarianceParts, clusters: float, seeds: int) -> float:
    """Satterthwaite's (Biometrics Bulletin 2, 1946), of a variance between clusters plus one between seeds."""
    parts = between.clusters**2 / max(clusters - 1, 0.5) + (between.seeds**2 / (seeds - 1) if seeds > 1 else 0.0)
    return between.total**2 / parts


def studentized_bootstrap(
    differences: Array, weights: Array, level: float, *, unit: str = "articles", assumed: float = 0.0
) -> Estimate:
    """Mean difference as a ratio estimator, with a studentized bootstrap (Efron and Tibshirani 1993, ch. 12.5).

    differences: [seeds, clusters], sums over a cluster's items of after minus before; weights: [clusters], what they
    are divided by (tokens); level: 1 - coverage; assumed: standard deviation between seeds, used in place of an
    estimate where there is one seed of several that could have been. Seeds are drawn first, then clusters; each draw is
    divided by its own standard error.

    No tail is lighter than Student's with Satterthwaite's degrees of freedom: of 13 uneven articles the bootstrap alone
    called 6 of 1,000 tests where 1.25 were due (benchmarks/gate.py).
    """
    seeds, clusters = differences.shape
    value = float(differences.mean(0).sum() / weights.sum())
    between = variance_parts(differences, weights)
    if between.total == 0:
        return Estimate(value, 0.0, value, value, 1.0 if value == 0 else 0.0, clusters, unit, seeds)
    drawn = _draws(differences - value * weights, weights, _draw_count(level))
    freedom = _degrees_of_freedom(between, effective_size(weights), seeds)
    widened = (between.total + assumed**2) ** 0.5
    low, high = (_quantile(drawn, tail, freedom) for tail in (1 - level / 2, level / 2))
    return Estimate(
        value=value,
        stderr=widened,
        low=value - low * widened,
        high=value - high * widened,
        p=_p(drawn, value / widened, freedom),
        n=clusters,
        unit=unit,
        seeds=seeds,
        seed_share=(between.seeds + assumed**2) / widened**2,
    )


def critical_t(differences: Array, weights: Array, level: float) -> float:
    """The t from which on `studentized` calls a positive difference other than 0: its p is under `level`.

    differences: [seeds, clusters]; weights: [clusters].
    """
    value = differences.mean(0).sum() / weights.sum()
    drawn = _draws(differences - value * weights, weights, _draw_count(level))
    freedom = _degrees_of_freedom(variance_parts(differences, weights), effective_size(weights), len(differences))
    return _quantile(drawn, 1 - level / 2, freedom)


def _draw_count(level: float) -> int:
    return min(MAX_DRAWS, int(np.ceil(DRAWS_OVER_LEVEL / level)))


@lru_cache(maxsize=4)
def _resamples(draws: int, size: int, stream: int) -> Array:
    """How often each of `size` is drawn: [draws, size]. The same for every cell, so that a gate repeats itself."""
    counts = np.random.default_rng([size, stream]).multinomial(size, np.full(size, 1 / size), size=draws)
    counts.flags.writeable = False
    return counts.astype(np.float64)


def _draws(centred: Array, w: Array, draws: int) -> Array:
    """The bootstrap's t: [draws], sorted. centred: differences whose estimate is 0."""
    seeds, size = centred.shape
    columns, rows = _resamples(draws, size, 0), _resamples(draws, seeds, 1)
    parts = [_t(centred, w, columns[a : a + CHUNK], rows[a : a + CHUNK]) for a in range(0, draws, CHUNK)]
    out: Array = np.sort(np.concatenate(parts))
    return out


def _t(centred: Array, w: Array, columns: Array, rows: Array) -> Array:
    """centred: [seeds, clusters]; columns: [draws, clusters]; rows: [draws, seeds]."""
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
    with np.errstate(divide="ignore", invalid="ignore"):
        t: Array = value / np.sqrt(variance)
    return np.nan_to_num(t, nan=0.0, posinf=np.finfo(float).max, neginf=-np.finfo(float).max)


def _sorted_quantile(drawn: Array, at: float) -> float:
    """np.quantile of what is sorted already."""
    place = at * (len(drawn) - 1)
    k = min(int(place), len(drawn) - 2)
    return float(drawn[k] + (place - k) * (drawn[k + 1] - drawn[k]))


def _stretch(drawn: Array, upper: bool, freedom: float) -> float:
    """The bootstrap's last sound quantile over Student's, never below 1."""
    from scipy.special import stdtrit

    tail = DRAWS_OVER_LEVEL / 2 / len(drawn)
    edge = _sorted_quantile(drawn, 1 - tail) if upper else -_sorted_quantile(drawn, tail)
    return max(1.0, float(edge / stdtrit(freedom, 1 - tail)))


def _quantile(drawn: Array, at: float, freedom: float) -> float:
    from scipy.special import stdtrit

    students = float(stdtrit(freedom, at))
    if min(at, 1 - at) * len(drawn) >= DRAWS_OVER_LEVEL / 2 - 1e-6:
        bootstrapped = _sorted_quantile(drawn, at)
        return max(students, bootstrapped) if at > 0.5 else min(students, bootstrapped)
    return students * _stretch(drawn, at > 0.5, freedom)


def _p(drawn: Array, t: float, freedom: float) -> float:
    """Two-sided: twice the smaller tail, as the interval's two tails are equal."""
    from scipy.special import stdtr

    above = len(drawn) - int(np.searchsorted(drawn, t, side="left"))
    below = int(np.searchsorted(drawn, t, side="right"))
    fewer = min(above, below)
    if fewer < DRAWS_OVER_LEVEL / 2 and len(drawn) >= MAX_DRAWS:
        return min(1.0, 2 * float(stdtr(freedom, -abs(t) / _stretch(drawn, above < below, freedom))))
    return min(1.0, max(2 * float(stdtr(freedom, -abs(t))), 2 * (1 + fewer) / (1 + len(drawn))))


def estimate_means(differences: Array, level: float, *, unit: str = "questions") -> Estimate:
    """Mean of paired differences over items and seeds by Student's t: closed, for items by the thousand.

    differences: [seeds, items]. The variances between items and between seeds add up; the degrees of freedom are
    Satterthwaite's.
    """
    from scipy.special import stdtr, stdtrit

    seeds, items = differences.shape
    value = float(differences.mean())
    between = variance_parts(differences, np.ones(items))
    if between.total == 0:
        return Estimate(value, 0.0, value, value, 1.0 if value == 0 else 0.0, items, unit, seeds)
    freedom = _degrees_of_freedom(between, items, seeds)
    scale = between.total**0.5
    half = float(stdtrit(freedom, 1 - level / 2)) * scale
    p = 2 * float(stdtr(freedom, -abs(value) / scale))
    share = between.seeds / between.total
    return Estimate(value, scale, value - half, value + half, p, items, unit, seeds, share)


def estimate_blocks(before: Array, after: Array, level: float) -> Estimate:
    """ln ratio of timings, block by block, with Student's t. before, after: medians of interleaved blocks [blocks].

    A percentile bootstrap of ten blocks errs ten times too often at small levels; Student's t does not.
    """
    return replace(estimate_means(np.log(after / before)[None], level), unit="blocks")
