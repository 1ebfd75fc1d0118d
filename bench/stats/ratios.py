"""Changes of paired means, averaged over groups of questions: as a ratio and as a difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.stats.bootstrap import Array, satterthwaite, students_p, students_t
from bench.stats.seed_noise import SeedNoise


class PairedGroup(NamedTuple):
    """Scores of the same questions before and after."""

    before: Array
    """[questions]"""
    after: Array
    """[seeds, questions]"""
    clusters: NDArray[Any]
    """Name of the cluster of each question. Questions of a cluster are not independent."""
    source: str = ""
    """Name of the data. Equal clusters of groups with the same data are one cluster. "": those of
    no other group."""


class Change(NamedTuple):
    """Mean over groups of after / before - 1, or of after - before."""

    value: float
    stderr: float
    freedom: float
    """Degrees of freedom of the standard error."""

    def interval(self, level: float) -> tuple[float, float]:
        """Return the ends of Student's t interval of coverage 1 - level."""
        half = students_t(level, self.freedom) * self.stderr
        return self.value - half, self.value + half


def estimate_change(
    groups: Sequence[PairedGroup], noise: SeedNoise | None = None, *, relative: bool = True
) -> Change | None:
    """Estimate the mean over groups of mean(after) / mean(before) - 1, or of mean(after) -
    mean(before) if not `relative`.

    The error of a ratio is that of its linear part, (after - ratio * before) / mean(before), summed
    by cluster (Cochran, Sampling Techniques, 1977, eq. 6.4). That of a difference is the same with
    a ratio of 1 and no divisor, around its mean. Groups of different data are
    independent, and Welch and Satterthwaite's formula gives the degrees of freedom. The variance
    between seeds is added: that of these seeds or `noise`, whichever is larger.

    Args:
        noise: noise between seeds of a score's mean. A draw changes all groups together.

    Returns:
        None if a group has fewer than two clusters, or the mean before is not above 0.
    """
    noise = noise or SeedNoise(0.0)
    changes: list[Array] = []
    scales = []
    parts: dict[str | int, dict[Any, float]] = {}
    for number, (before, after, clusters, source) in enumerate(groups):
        names, index = np.unique(clusters, return_inverse=True)
        count, mean = len(names), float(before.mean())
        if count < 2 or mean <= 0:
            return None
        scale = 1 / mean if relative else 1.0
        change = (after.mean(1) - mean) * scale  # [seeds]
        if relative:
            rest = (after.mean(0) - (1 + change.mean()) * before) * scale
        else:
            rest = after.mean(0) - before - change.mean()
        scales.append(scale)
        changes.append(change)
        sums = np.bincount(index, rest, count) * math.sqrt(count / (count - 1)) / len(before)
        of_source = parts.setdefault(source or number, {})
        for name, part in zip(names.tolist(), sums.tolist(), strict=True):
            of_source[name] = of_source.get(name, 0.0) + part
    of_seeds = np.mean(changes, axis=0)  # [seeds]
    variances: list[tuple[float, float]] = []
    for of_source in parts.values():
        squares = sum(part**2 for part in of_source.values())
        variances.append((squares / len(groups) ** 2, len(of_source) - 1))
    between = (noise.variance * float(np.mean(scales)) ** 2, noise.freedom)
    if len(of_seeds) > 1:
        between = max(between, (float(of_seeds.var(ddof=1)), len(of_seeds) - 1.0))
    if between[0]:
        variances.append((between[0] / len(of_seeds), between[1]))
    stderr = math.sqrt(sum(variance for variance, _ in variances))
    return Change(float(of_seeds.mean()), stderr, satterthwaite(variances))


def differ_p(one: Change, other: Change) -> float:
    """Return the two-sided p of a difference between changes of independent questions."""
    variance = one.stderr**2 + other.stderr**2
    if not variance:
        return float(one.value == other.value)
    freedom = satterthwaite([(c.stderr**2, c.freedom) for c in (one, other)])
    return students_p((one.value - other.value) / math.sqrt(variance), freedom)


def wilson_interval(count: float, n: float, level: float) -> tuple[float, float]:
    """Return the score interval of a share (Wilson, J. Am. Stat. Assoc. 22, 1927)."""
    from scipy.special import ndtri

    z2 = float(ndtri(level / 2)) ** 2
    middle = (count + z2 / 2) / (n + z2)
    half = math.sqrt(z2 * (count * (n - count) / n + z2 / 4)) / (n + z2)
    return max(0.0, middle - half), min(1.0, middle + half)
