"""The interval of one proportion."""

from __future__ import annotations

import math


def wilson_interval(share: float, n: int, level: float) -> tuple[float, float]:
    """Return the score interval of a proportion with coverage 1 - level (Wilson, J. Am. Stat. Assoc. 22, 1927)."""
    from scipy.special import ndtri

    z = float(ndtri(1 - level / 2))
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return middle - half, middle + half
