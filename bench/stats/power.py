"""The number of items that a comparison needs to decide."""

from __future__ import annotations

import math

from bench.stats.bootstrap import Estimate


def required_n(estimate: Estimate, loss: float, half: float, margin: float) -> tuple[int, str] | None:
    """Return the n that would decide if the estimate stayed the same: its interval would exclude the margin.

    The half-width of an interval falls as 1 / sqrt(n), where n counts the unit with most of the variance.

    Args:
        loss: the estimate, positive if worse.
        half: half-width of its interval, on the side that matters.

    Returns:
        n and its unit, or None if the estimate is on the margin, where no n decides.
    """
    gap = abs(loss - margin)
    if gap <= 0 or half <= 0:
        return None
    by_seed = estimate.seed_share > 0.5
    n = (estimate.seeds if by_seed else estimate.n) * (half / gap) ** 2
    return (math.ceil(n), "seeds" if by_seed else estimate.unit) if n < 1e7 else None
