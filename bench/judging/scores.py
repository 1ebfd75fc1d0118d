"""From a pair's per-item scores to an estimate of what changed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from bench.judging import binary, paired
from bench.judging.paired import Estimate
from bench.judging.pairs import Pair
from bench.judging.sides import Items, Side
from bench.store import Record
from methods.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

FEW = 8
"""Articles, under which windows are put into blocks instead."""
BLOCKS = 24
LEAST = 10
"""Blocks of timings."""


class CannotPair(Exception):
    """Why two sets of scores do not meet."""


def estimate(pair: Pair, before: Side, after: Side, level: float, seed_noise: float = 0.0) -> Estimate:
    """
    Raises:
        CannotPair: other items, or too few.
        UserError: scores that cannot be read.
    """
    if pair.counted:
        return _counted(pair)
    if all(_identical(a, b) for a, b in zip(pair.before, pair.after, strict=True)):
        rows = min(r.items.rows if r.items else 1 for r in pair.before)
        return Estimate(0.0, 0.0, 0.0, 0.0, 1.0, rows, "items", len(pair.before))
    both = [
        _checked(before.items(a), after.items(b), pair.timing) for a, b in zip(pair.before, pair.after, strict=True)
    ]
    was, now = (np.stack([_column(side[i], pair.metric) for side in both]) for i in (0, 1))
    if pair.timing:
        return _timing(was, now, level)
    items = both[0][0]
    if any(not np.array_equal(items.ids, other.ids) for other, _ in both):
        raise CannotPair("seeds were measured on other items")
    one_draw = len(pair.before) == 1 and pair.before[0].slot.get("seed") is not None
    if (items.weights == 1).all():
        return _questions(was, now, level)
    sums, weights, unit = _clustered(now - was, items)
    return paired.studentized(sums, weights, level, unit=unit, assumed=seed_noise if one_draw else 0.0)


def value(pair: Pair) -> tuple[float, float]:
    """Before and after, over seeds: the mean, and of what is compared by ratio the geometric one."""
    was, now = ([float(r.value) for r in side if r.value is not None] for side in pair.readings)
    if pair.logarithmic and min(*was, *now) > 0:
        return tuple(math.exp(math.fsum(map(math.log, side)) / len(side)) for side in (was, now))  # type: ignore[return-value]
    return math.fsum(was) / len(was), math.fsum(now) / len(now)


def change(pair: Pair) -> float:
    """After minus before of the numbers themselves, in ln where they are compared by ratio."""
    a, b = value(pair)
    return math.log(b / a) if pair.logarithmic and min(a, b) > 0 else b - a


def _counted(pair: Pair) -> Estimate:
    moved = change(pair)
    return Estimate(moved, 0.0, moved, moved, 0.0 if moved else 1.0, 1, "count", len(pair.before))


def _identical(a: Record, b: Record) -> bool:
    same = a.items is not None and b.items is not None and a.items.sha256 == b.items.sha256
    return same and a.readings == b.readings


def _checked(a: Items, b: Items, timing: bool) -> tuple[Items, Items]:
    if not timing and not (
        np.array_equal(a.ids, b.ids) and np.array_equal(a.clusters, b.clusters) and np.array_equal(a.weights, b.weights)
    ):
        raise CannotPair("measured on other items")
    if len(a.ids) == 0:
        raise CannotPair("there are no items")
    return a, b


def _column(items: Items, metric: str) -> Array:
    found = items.columns.get(metric, items.columns.get("value"))
    if found is None or not np.isfinite(found).all():
        raise UserError(f"per-item scores of {metric!r} have no finite values: run the cell again")
    return found


def _timing(was: Array, now: Array, level: float) -> Estimate:
    if was.shape != now.shape or was.size < LEAST:
        raise CannotPair(
            f"{was.size} and {now.size} blocks of timings: as many on both sides are needed, {LEAST} at least"
        )
    if min(was.min(), now.min()) <= 0:
        raise CannotPair("a timing is not above 0")
    return paired.blocks(was.ravel(), now.ravel(), level)


def _questions(was: Array, now: Array, level: float) -> Estimate:
    right_or_wrong = bool(np.isin(was, (0, 1)).all() and np.isin(now, (0, 1)).all())
    if right_or_wrong and len(was) == 1:
        return binary.flips(was[0], now[0], level)
    if was.shape[1] < 2:
        raise CannotPair("one item is too few")
    return paired.means(now - was, level) if not right_or_wrong else binary.flips_over_seeds(was, now, level)


def _clustered(differences: Array, items: Items) -> tuple[Array, Array, str]:
    """Sums by article [seeds, clusters] and their weights; by blocks of windows where articles are few."""
    names, index = np.unique(items.clusters.astype(str), return_inverse=True)
    unit = "articles"
    if len(names) < FEW:
        order = np.argsort([int(i) if str(i).isdigit() else 0 for i in items.ids], kind="stable")
        count = min(BLOCKS, len(order))
        index = np.empty(len(order), dtype=np.intp)
        index[order] = np.arange(len(order)) * count // len(order)
        unit = "blocks of windows"
    else:
        count = len(names)
    if count < 2:
        raise CannotPair("one window is too few")
    rows = (*differences, items.weights)
    sums: Array = np.stack([np.bincount(index, row, count).astype(np.float64) for row in rows])
    return sums[:-1], sums[-1], unit
