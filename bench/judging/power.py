"""How many it takes: the size at which a comparison decides, and the chance that it finds a loss."""

from __future__ import annotations

import math

import numpy as np

from bench.judging.paired import Estimate


def needed(estimate: Estimate, loss: float, half: float, margin: float) -> tuple[int, str] | None:
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


def of_mcnemar(n: int, discordant: float, delta: float, level: float, margin: float = 0.0) -> float:
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


def of_t(effect: float, stderr: float, freedom: int, level: float) -> float:
    """Chance that a two-sided t test finds a true effect (the noncentral t, upper tail)."""
    from scipy.special import stdtrit
    from scipy.stats import nct

    return float(nct.sf(stdtrit(freedom, 1 - level / 2), freedom, effect / stderr))
