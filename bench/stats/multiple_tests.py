"""Many tests at once: adjusted p values, and ranks with ties."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np

K = TypeVar("K", bound=Hashable)


def holm(p: Sequence[float]) -> list[float]:
    """Adjust p values: with probability 1 - alpha, none under alpha is a false alarm (Holm
    1979)."""
    order = np.argsort(p, kind="stable")
    steps = np.asarray(p, dtype=float)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    out: list[float] = adjusted.tolist()
    return out


def differs(adjusted: float, alpha: float) -> bool:
    """Return whether a difference is real, from an adjusted p. Verdicts, ranks and `bench pick`
    share this rule."""
    return adjusted < alpha


def bonferroni(alpha: float, count: int) -> float:
    """Return the level for each interval at which a whole family holds with probability 1 -
    alpha."""
    return alpha / max(1, count)


def tie_groups(names: Sequence[K], differing: Iterable[tuple[K, K]]) -> list[tuple[K, int, int]]:
    """Return ranks as ranges. names: best first. differing: pairs that differ significantly.

    A range is (name, best, worst): 1 + the number of significantly better rows, and that of rows
    not significantly worse.
    """
    place = {name: k for k, name in enumerate(names)}
    better, worse = [0] * len(names), [0] * len(names)
    for pair in differing:
        first, last = sorted(place[name] for name in pair)
        worse[first] += 1
        better[last] += 1
    return [(name, 1 + better[k], len(names) - worse[k]) for k, name in enumerate(names)]
