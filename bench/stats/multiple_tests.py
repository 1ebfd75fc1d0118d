"""Many tests at once: adjusted p values, and ranks that claim no more than was shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p values: under alpha, no test of the family is a false alarm with 1 - alpha (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    steps = np.asarray(p, dtype=float)[order] * np.arange(len(p), 0, -1)
    return _back(np.minimum(np.maximum.accumulate(steps), 1.0), order) if len(p) else []


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Adjusted p values: of those under q, a share of q is false on average (Benjamini and Hochberg 1995)."""
    order = np.argsort(p, kind="stable")
    steps = np.asarray(p, dtype=float)[order] * len(p) / np.arange(1, len(p) + 1)
    return _back(np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1.0), order) if len(p) else []


def _back(values: np.ndarray, order: np.ndarray) -> list[float]:
    out = np.empty(len(values))
    out[order] = values
    return [float(v) for v in out]


def bonferroni(alpha: float, count: int) -> float:
    """The level of each interval, so that all of a family hold at once with 1 - alpha."""
    return alpha / max(1, count)


def tie_groups(names: Sequence[str], differs: Callable[[str, str], bool]) -> list[tuple[str, int, int]]:
    """Ranks as ranges. names: best first; differs(a, b): was a shown to differ from b?

    Returns:
        (name, best, worst): one more than the rows shown to be better, and as many as are not shown to be worse.
    """
    out = []
    for i, name in enumerate(names):
        better = sum(differs(other, name) for other in names[:i])
        worse = sum(differs(name, other) for other in names[i + 1 :])
        out.append((name, 1 + better, len(names) - worse))
    return out
