"""Find steps in a series of numbers.

Binary segmentation: the split with the largest CUSUM statistic is a step if few random orders of
the same numbers have one as large (a permutation test, as in the change detection of MongoDB and
Hunter, arXiv 2003.00584 and 2301.03034). Then both halves are searched in the same way.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.stats.bootstrap import Array

PERMUTATIONS = 999
MIN_SEGMENT = 2
"""Smallest number of values on each side of a step."""


def find_steps(values: Array, alpha: float = 0.01, orders: int = PERMUTATIONS) -> list[int]:
    """Return the indices at which a new level begins. With alpha = 0.01, fewer than ten values
    never have a step.

    values: [n]. alpha: level of the test of each segment. orders: number of random orders.
    """
    return sorted(
        _search(np.asarray(values, dtype=float), 0, alpha, orders, np.random.default_rng(0))
    )


def _search(
    values: Array, offset: int, alpha: float, orders: int, rng: np.random.Generator
) -> list[int]:
    if len(values) < 2 * MIN_SEGMENT or np.ptp(values) == 0:
        return []
    at, size = _split(values[None])
    shuffled = rng.permuted(np.broadcast_to(values, (orders, len(values))), axis=1)
    as_large = int((_split(shuffled)[1] >= size[0] * (1 - 1e-9)).sum())
    if (1 + as_large) / (1 + orders) > alpha:
        return []
    k = int(at[0])
    left = _search(values[:k], offset, alpha, orders, rng)
    return [*left, offset + k, *_search(values[k:], offset + k, alpha, orders, rng)]


def _split(rows: Array) -> tuple[NDArray[np.int64], Array]:
    """Return the best k of each row, and its |mean(first k) - mean(rest)| sqrt(k (n - k) / n).
    rows: [orders, n]."""
    n = rows.shape[1]
    k = np.arange(MIN_SEGMENT, n - MIN_SEGMENT + 1)
    first = rows.cumsum(1)[:, k - 1]
    rest = rows.sum(1, keepdims=True) - first
    size = np.abs(first / k - rest / (n - k)) * np.sqrt(k * (n - k) / n)
    best = size.argmax(1)
    return k[best], size[np.arange(len(rows)), best]
