"""How many it takes: the size at which a comparison decides, and the chance that it finds a loss."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from bench.stats.bootstrap import Estimate, critical_t

if TYPE_CHECKING:
    from bench.stats.bootstrap import Array

MOMENT_DRAWS = 10_000
"""Draws from which the variance of a standard error is taken."""


def required_n(estimate: Estimate, loss: float, half: float, margin: float) -> tuple[int, str] | None:
    """The n that would decide, were the estimate to stay: to fall under the margin, or beyond it to exclude 0.

    loss: the estimate, worse counted positive; half: its interval's half-width towards the side that has to be passed.
    The half-width falls as 1 / sqrt(n), n of the unit that makes up most of the variance.

    Returns:
        n and its unit; None where the estimate lies on the margin, so that no n decides.
    """
    gap = loss if loss > margin else margin - loss
    if gap <= 0 or half <= 0:
        return None
    by_seed = estimate.seed_share > 0.5
    n = (estimate.seeds if by_seed else estimate.n) * (half / gap) ** 2
    return (math.ceil(n), "seeds" if by_seed else estimate.unit) if n < 1e7 else None


def mcnemar_power(n: int, discordant: float, delta: float, level: float, margin: float = 0.0) -> float:
    """Chance that the exact McNemar test of n pairs, a share `discordant` of which flip, finds a loss of `delta`.

    Exact, over all outcomes. margin: what the observed loss has to exceed besides.
    """
    from scipy.stats import binom

    k = np.arange(n + 1)
    weight = binom.pmf(k, n, discordant)
    likely = k[weight > 1e-12]
    total = 0.0
    for count in likely:
        lost = np.arange(count + 1)
        p = np.minimum(1.0, 2 * binom.cdf(np.minimum(lost, count - lost), count, 0.5))
        found = (p < level) & (2 * lost - count > margin * n)
        chance = binom.pmf(lost, count, (discordant + delta) / (2 * discordant))
        total += float(weight[count] * chance[found].sum())
    return total


def t_power(effect: float, stderr: float, freedom: float, critical: float) -> float:
    """Chance that t comes out above `critical` where the true effect is this one (the noncentral t, upper tail)."""
    from scipy.stats import nct

    return float(nct.sf(critical, freedom, effect / stderr))


def studentized_power(
    effect: float,
    differences: Array,
    weights: Array,
    level: float,
    dice: np.random.Generator,
    *,
    clusters: int,
    draws: int,
) -> float:
    """Chance that `paired.studentized` finds a true effect in so many clusters drawn from those given.

    differences, weights: [clusters]; draws: samples whose bootstrap is run.

    The noncentral t, with what Student's does not know of few uneven clusters: the standard error's own bias, the degrees
    of freedom that its variance has from draw to draw (Satterthwaite's, by moments: Box, Ann. Math. Stat. 25, 1954), and,
    averaged over draws, the t that the bootstrap asks for. It stays a t: of one change of few articles it may be a tenth
    off, over many changes it agrees with what is found (benchmarks/gate.py).
    """
    centred = differences - differences.sum() / weights.sum() * weights
    drawn = dice.integers(len(weights), size=(MOMENT_DRAWS, clusters))
    sums, totals = centred[drawn].sum(1), weights[drawn].sum(1)
    rest = centred[drawn] - (sums / totals)[:, None] * weights[drawn]
    squares = clusters / (clusters - 1) * (rest**2).sum(1) / totals**2  # of standard errors
    stderr = float((sums / totals).std())
    freedom = float(2 * squares.mean() ** 2 / squares.var())
    bias = float(squares.mean() ** 0.5 / stderr)
    asked = [critical_t(centred[d][None], weights[d], level) for d in drawn[:draws]]
    return float(np.mean([t_power(effect, stderr, freedom, bias * t) for t in asked]))
