"""The number of items that a comparison needs to decide."""

from __future__ import annotations

import math

from bench.stats.bootstrap import Estimate


def required_n(estimate: Estimate, loss: float, half: float, margin: float) -> tuple[int, str] | None:
    """Return the n that would decide if the estimate stayed the same: its interval would exclude the margin.

    The half-width of an interval falls as 1 / sqrt(n), where n counts the unit with most of the variance. More of this unit leave
    the variance of the other.

    Args:
        loss: the estimate, positive if worse.
        half: half-width of its interval, on the side that matters.

    Returns:
        n and its unit, or None where no n of either unit decides: the estimate is on the margin, or each unit alone leaves too much.
    """
    gap = abs(loss - margin)
    if gap <= 0 or half <= 0:
        return None
    share, wanted = estimate.seed_share, (gap / half) ** 2
    units = [(estimate.n, 1 - share, estimate.unit), (estimate.seeds, share, "seeds")]
    for n, own, unit in sorted(units, key=lambda one: -one[1]):
        left = wanted - (1 - own)  # of the variance, for this unit
        if own and left > 0 and n * own / left < 1e7:
            return math.ceil(n * own / left), unit
    return None
