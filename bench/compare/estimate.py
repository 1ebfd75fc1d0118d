"""From a pair's per-item scores to an estimate of what changed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench.compare.pairing import Pair
from bench.compare.result_set import Items, ResultSet
from bench.results.record import Record
from bench.results.rows import newest
from bench.results.store import Store
from bench.stats import bootstrap, mcnemar
from bench.stats.bootstrap import Estimate, studentized_bootstrap
from methods.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

MIN_ARTICLES = 8
"""Articles, under which windows are put into blocks instead."""

WINDOW_BLOCKS = 24

MIN_TIMING_BLOCKS = 10
"""Blocks of timings."""


class NotComparable(Exception):
    """Why two sets of scores do not meet."""


def estimate_pair(pair: Pair, before: ResultSet, after: ResultSet, level: float, seed_noise: float = 0.0) -> Estimate:
    """
    Raises:
        CannotPair: other items, or too few.
        UserError: scores that cannot be read.
    """
    if pair.counted:
        return _estimate_counted(pair)
    if all(_are_identical(a, b) for a, b in zip(pair.before, pair.after, strict=True)):
        rows = min(r.items.rows if r.items else 1 for r in pair.before)
        return Estimate(0.0, 0.0, 0.0, 0.0, 1.0, rows, "items", len(pair.before))
    both = [
        _check_items(before.items(a), after.items(b), pair.definition.is_time)
        for a, b in zip(pair.before, pair.after, strict=True)
    ]
    was, now = (np.stack([_column(side[i], pair.metric) for side in both]) for i in (0, 1))
    if pair.definition.is_time:
        return _estimate_timing(was, now, level)
    items = both[0][0]
    if any(not np.array_equal(items.ids, other.ids) for other, _ in both):
        raise NotComparable("seeds were measured on other items")
    one_draw = len(pair.before) == 1 and pair.before[0].identity.seed is not None
    if (items.weights == 1).all():
        return _estimate_questions(was, now, level)
    sums, weights, unit = _sums_by_cluster(now - was, items)
    return bootstrap.studentized_bootstrap(sums, weights, level, unit=unit, assumed=seed_noise if one_draw else 0.0)


def mean_values(pair: Pair) -> tuple[float, float]:
    """Before and after, over seeds: the mean, and of what is compared by ratio the geometric one."""
    was, now = ([float(r.value) for r in side if r.value is not None] for side in pair.readings)
    if pair.definition.is_ratio and min(*was, *now) > 0:
        return tuple(math.exp(math.fsum(map(math.log, side)) / len(side)) for side in (was, now))  # type: ignore[return-value]
    return math.fsum(was) / len(was), math.fsum(now) / len(now)


def mean_change(pair: Pair) -> float:
    """After minus before of the numbers themselves, in ln where they are compared by ratio."""
    a, b = mean_values(pair)
    return math.log(b / a) if pair.definition.is_ratio and min(a, b) > 0 else b - a


def _estimate_counted(pair: Pair) -> Estimate:
    moved = mean_change(pair)
    return Estimate(moved, 0.0, moved, moved, 0.0 if moved else 1.0, 1, "count", len(pair.before))


def _are_identical(a: Record, b: Record) -> bool:
    same = a.items is not None and b.items is not None and a.items.sha256 == b.items.sha256
    return same and a.readings == b.readings


def _check_items(a: Items, b: Items, timing: bool) -> tuple[Items, Items]:
    if not timing and not (
        np.array_equal(a.ids, b.ids) and np.array_equal(a.clusters, b.clusters) and np.array_equal(a.weights, b.weights)
    ):
        raise NotComparable("measured on other items")
    if len(a.ids) == 0:
        raise NotComparable("there are no items")
    return a, b


def _column(items: Items, metric: str) -> Array:
    found = items.columns.get(metric, items.columns.get("value"))
    if found is None or not np.isfinite(found).all():
        raise UserError(f"per-item scores of {metric!r} have no finite values: run the cell again")
    return found


def _estimate_timing(was: Array, now: Array, level: float) -> Estimate:
    if was.shape != now.shape or was.size < MIN_TIMING_BLOCKS:
        raise NotComparable(
            f"{was.size} and {now.size} blocks of timings: as many on both sides are needed, {MIN_TIMING_BLOCKS} at least"
        )
    if min(was.min(), now.min()) <= 0:
        raise NotComparable("a timing is not above 0")
    return bootstrap.estimate_blocks(was.ravel(), now.ravel(), level)


def _estimate_questions(was: Array, now: Array, level: float) -> Estimate:
    right_or_wrong = bool(np.isin(was, (0, 1)).all() and np.isin(now, (0, 1)).all())
    if right_or_wrong and len(was) == 1:
        return mcnemar.estimate_flips(was[0], now[0], level)
    if was.shape[1] < 2:
        raise NotComparable("one item is too few")
    return (
        bootstrap.estimate_means(now - was, level)
        if not right_or_wrong
        else mcnemar.estimate_flips_over_seeds(was, now, level)
    )


def _sums_by_cluster(differences: Array, items: Items) -> tuple[Array, Array, str]:
    """Sums by article [seeds, clusters] and their weights; by blocks of windows where articles are few."""
    names, index = np.unique(items.clusters.astype(str), return_inverse=True)
    unit = "articles"
    if len(names) < MIN_ARTICLES:
        order = np.argsort([int(i) if str(i).isdigit() else 0 for i in items.ids], kind="stable")
        count = min(WINDOW_BLOCKS, len(order))
        index = np.empty(len(order), dtype=np.intp)
        index[order] = np.arange(len(order)) * count // len(order)
        unit = "blocks of windows"
    else:
        count = len(names)
    if count < 2:
        raise NotComparable("one window is too few")
    rows = (*differences, items.weights)
    sums: Array = np.stack([np.bincount(index, row, count).astype(np.float64) for row in rows])
    return sums[:-1], sums[-1], unit


class Ratio(NamedTuple):
    """a over b, with the interval that covers it with 1 - alpha."""

    value: float
    low: float
    high: float
    seeds: int
    clusters: int
    p: float
    """Two-sided, of no difference."""


def perplexity_ratio(
    a: Mapping[int | None, pd.DataFrame], b: Mapping[int | None, pd.DataFrame], alpha: float = 0.05
) -> Ratio:
    """exp of the difference in mean NLL, paired by window, over articles within seeds.

    a, b: items by seed; a row without seeds (None: the same model whatever the seed) meets every seed of the other.
    The interval is bench.judging.paired.studentized's.

    Raises:
        UserError: no seed in common, or other windows.
    """
    seeds = _shared_seeds(a, b)
    pairs = [_sums_by_article(a.get(s, a.get(None)), b.get(s, b.get(None))) for s in seeds]
    differences = np.stack([d for d, _ in pairs])  # [seeds, clusters]
    found = studentized_bootstrap(differences, pairs[0][1], alpha)
    value, low, high = (float(np.exp(x)) for x in (found.value, found.low, found.high))
    return Ratio(value, low, high, len(seeds), found.n, found.p)


def _shared_seeds(a: Mapping[int | None, object], b: Mapping[int | None, object]) -> list[int | None]:
    if None in a and None in b:
        return [None]
    seeds = set(b) if None in a else set(a) if None in b else set(a) & set(b)
    if not seeds:
        raise UserError(f"nothing to pair: one row has seeds {sorted(map(str, a))}, the other {sorted(map(str, b))}")
    return sorted(seeds, key=str)


def _sums_by_article(a: pd.DataFrame | None, b: pd.DataFrame | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of NLL differences, and tokens, by article."""
    assert a is not None and b is not None
    both = a.merge(b, on=["item_id", "cluster_id", "weight"], suffixes=("_a", "_b"), validate="one_to_one")
    if len(both) != len(a) or len(both) != len(b):
        raise UserError("the two rows were measured on other windows: they cannot be paired")
    both["difference"] = both["value_a"] - both["value_b"]
    sums = both.groupby("cluster_id", sort=True)[["difference", "weight"]].sum()
    return sums["difference"].to_numpy(), sums["weight"].to_numpy()


def perplexity_items(store: Store, method: str, quantizer: str = "none") -> dict[int | None, pd.DataFrame]:
    """A method's perplexity items by seed, from the newest records of a results folder.

    Raises:
        UserError: no such row, or rows under several protocols.
    """
    found: dict[int | None, Record] = {}
    digests = set()
    for record in newest(store):
        identity = record.identity
        asked = (identity.method, identity.quantizer, identity.measure) == (method, quantizer, "perplexity")
        if asked and record.status == "ok":
            digests.add(record.token_digest)
            found[record.identity.seed] = record
    if not found or len(digests) > 1:
        why = "has no perplexity" if not found else "has perplexities on several corpora"
        raise UserError(f"{method!r} {why} in {store.root}: see bench report --results {store.root}")
    return {seed: store.items(record) for seed, record in found.items()}
