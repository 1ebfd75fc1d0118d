"""Where a series of numbers took a step.

Binary segmentation: the split with the largest CUSUM statistic is kept if few random orders of the same numbers have one as
large (a permutation test, as MongoDB's and Hunter's change detection do for E-divisive, arXiv 2003.00584 and 2301.03034),
then both halves are searched in turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

PERMUTATIONS = 999
MIN_SEGMENT = 2
"""Numbers on either side of a step."""


def find_steps(values: Array, alpha: float = 0.01, orders: int = PERMUTATIONS) -> list[int]:
    """Indices at which a new level begins. Fewer than ten numbers can show none at 0.01.

    Each test is at alpha, one for every piece that is left to search.
    """
    return sorted(_search(np.asarray(values, dtype=float), 0, alpha, orders, np.random.default_rng(0)))


def _search(values: Array, offset: int, alpha: float, orders: int, dice: np.random.Generator) -> list[int]:
    if len(values) < 2 * MIN_SEGMENT or np.ptp(values) == 0:
        return []
    at, size = _split(values[None])
    shuffled = dice.permuted(np.broadcast_to(values, (orders, len(values))), axis=1)
    as_large = int((_split(shuffled)[1] >= size[0] * (1 - 1e-9)).sum())
    if (1 + as_large) / (1 + orders) > alpha:
        return []
    k = int(at[0])
    left = _search(values[:k], offset, alpha, orders, dice)
    return [*left, offset + k, *_search(values[k:], offset + k, alpha, orders, dice)]


def _split(rows: Array) -> tuple[NDArray[np.int64], Array]:
    """rows: [orders, n]. Of each, the best k and |mean(first k) - mean(rest)| sqrt(k (n - k) / n)."""
    n = rows.shape[1]
    k = np.arange(MIN_SEGMENT, n - MIN_SEGMENT + 1)
    first = rows.cumsum(1)[:, k - 1]
    rest = rows.sum(1, keepdims=True) - first
    size = np.abs(first / k - rest / (n - k)) * np.sqrt(k * (n - k) / n)
    best = size.argmax(1)
    return k[best], size[np.arange(len(rows)), best]
