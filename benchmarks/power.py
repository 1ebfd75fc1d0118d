"""The probability that a gate finds a loss. benchmarks/gate.py compares it with simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.stats.bootstrap import critical_t

if TYPE_CHECKING:
    from bench.stats.bootstrap import Array

MOMENT_DRAWS = 10_000
"""Draws for the variance of a standard error."""


def mcnemar_power(n: int, discordant: float, delta: float, level: float, margin: float = 0.0) -> float:
    """Return the probability that McNemar's exact test of n pairs, a share `discordant` of which flip, finds a loss of `delta`.

    Exact, over all outcomes. margin: the observed loss must exceed it, too.
    """
    from scipy.stats import binom

    k = np.arange(n + 1)
    weight = binom.pmf(k, n, discordant)
    likely = k[weight > 1e-12]
    total = 0.0
    for count in likely:
        lost = np.arange(count + 1)
        p = np.minimum(1.0, 2 * binom.cdf(np.minimum(lost, count - lost), count, 0.5))
        detected = (p < level) & (2 * lost - count > margin * n)
        chance = binom.pmf(lost, count, (discordant + delta) / (2 * discordant))
        total += float(weight[count] * chance[detected].sum())
    return total


def t_power(effect: float, stderr: float, freedom: float, critical: float) -> float:
    """Return the probability that t is above `critical` if the true effect is `effect` (noncentral t, upper tail)."""
    from scipy.stats import nct

    return float(nct.sf(critical, freedom, effect / stderr))


def studentized_power(
    effect: float,
    differences: Array,
    weights: Array,
    level: float,
    rng: np.random.Generator,
    *,
    clusters: int,
    draws: int,
) -> float:
    """Return the probability that `bench.stats.bootstrap.studentized_bootstrap` finds a true effect in a sample of clusters.

    A noncentral t, corrected for few unequal clusters: by the bias of the standard error, by degrees of freedom from the
    variance of its square (Satterthwaite's, by moments: Box, Ann. Math. Stat. 25, 1954), and by the bootstrap's critical
    t, averaged over draws. It is an approximation: for one change on few articles it can be wrong by 0.1; over many
    changes it agrees with simulation (benchmarks/gate.py).

    Args:
        differences, weights: [clusters], the clusters to sample from.
        clusters: size of the sample.
        draws: number of samples that are bootstrapped.
    """
    centred = differences - differences.sum() / weights.sum() * weights
    sample = rng.integers(len(weights), size=(MOMENT_DRAWS, clusters))
    sums, totals = centred[sample].sum(1), weights[sample].sum(1)
    rest = centred[sample] - (sums / totals)[:, None] * weights[sample]
    # Squares of standard errors.
    squares = clusters / (clusters - 1) * (rest**2).sum(1) / totals**2
    stderr = float((sums / totals).std())
    freedom = float(2 * squares.mean() ** 2 / squares.var())
    bias = float(squares.mean() ** 0.5 / stderr)
    critical = [critical_t(centred[d][None], weights[d], level) for d in sample[:draws]]
    return float(np.mean([t_power(effect, stderr, freedom, bias * t) for t in critical]))
