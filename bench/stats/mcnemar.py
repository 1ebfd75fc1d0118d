"""Estimate a change in accuracy from right and wrong answers to the same questions."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

from bench.stats.bootstrap import Array, Estimate, estimate_means, students_p, wider


def mcnemar_p(lost: int, gained: int) -> float:
    """Return the exact two-sided p: a discordant pair is lost or gained with probability 1/2 each
    (McNemar, Psychometrika 12, 1947)."""
    from scipy.special import bdtr

    discordant = lost + gained
    if discordant:
        return min(1.0, 2 * float(bdtr(min(lost, gained), discordant, 0.5)))
    return 1.0


def tango_score(lost: int, gained: int, n: int, delta: float) -> float:
    """Return the score, a normal deviate, for a difference of paired proportions of `delta` (Tango
    1998, eq. 6)."""
    a, c = 2 * n, -lost * delta * (1 - delta)
    b = -gained - lost + (2 * n - gained + lost) * delta
    # The likeliest probability of a loss under delta.
    q = (max(b * b - 4 * a * c, 0.0) ** 0.5 - b) / (2 * a)
    variance = n * (2 * q + delta * (1 - delta))
    return float((gained - lost - n * delta) / max(variance, 1e-300) ** 0.5)


@lru_cache(maxsize=2**14)
def tango_interval(lost: int, gained: int, n: int, level: float) -> tuple[float, float]:
    """Return the score interval for (gained - lost) / n, the difference of paired proportions
    (Tango, Stat. Med. 17, 1998, eq. 10).

    Unlike Wald's interval it is valid for few discordant pairs, or none.
    """
    from scipy.optimize import brentq
    from scipy.special import ndtri

    z = -float(ndtri(level / 2))
    value = (gained - lost) / n
    edge = 1 - 1e-12

    def score(delta: float) -> float:
        return tango_score(lost, gained, n, delta)

    if value > -edge and score(-edge) > z:
        low = brentq(lambda d: score(d) - z, -edge, value, xtol=1e-12)
    else:
        low = -1.0
    if value < edge and score(edge) < -z:
        high = brentq(lambda d: score(d) + z, value, edge, xtol=1e-12)
    else:
        high = 1.0
    return float(low), float(high)


def estimate_flips(before: Array, after: Array, level: float, *, margin: float = 0.0) -> Estimate:
    """Estimate accuracy after minus before, with one seed. before, after: 0 or 1, [questions].

    margin: change that `p_margin` tests, by Tango's score. For 0 it is McNemar's exact test.
    """
    lost, gained = _count_flips(before, after)
    n = len(before)
    value = (gained - lost) / n
    low, high = tango_interval(lost, gained, n, level)
    p = mcnemar_p(lost, gained)
    return Estimate(
        value=value,
        stderr=((lost + gained) / n - value**2) ** 0.5 / n**0.5,
        low=low,
        high=high,
        p=p,
        n=n,
        unit="questions",
        lost=lost,
        gained=gained,
        p_margin=students_p(tango_score(lost, gained, n, margin), math.inf) if margin else p,
    )


def estimate_flips_over_seeds(
    before: Array, after: Array, level: float, *, margin: float = 0.0
) -> Estimate:
    """Estimate accuracy after minus before, over several seeds. before, after: 0 or 1, [seeds,
    questions].

    McNemar's test would count a question once for each seed. Student's t over questions and seeds
    does not.
    """
    lost, gained = _count_flips(before, after)
    found = estimate_means(after - before, level, margin=margin)
    # Few questions may change alike, and that is not certain.
    if not found.stderr:
        found = wider(found, estimate_flips(before[0], after[0], level, margin=margin))
    return replace(found, lost=lost, gained=gained)


def _count_flips(before: Array, after: Array) -> tuple[int, int]:
    """Return how many answers were right and are now wrong, and the reverse."""
    return int(((before == 1) & (after == 0)).sum()), int(((before == 0) & (after == 1)).sum())
