"""Sums of per-token distances by window, as the items of a record, and the numbers that follow from
them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.results.derive import Items
from bench.results.record import Item
from bench.stats.bootstrap import Array, studentized_bootstrap

DISTANCES = (
    "kl", "reverse_kl", "js_divergence", "ear", "top1", "top5_overlap",
    "original_token_probability", "confidence",
)  # fmt: skip
"""Columns of `distances.distances_of`. The items have their sums by window."""
VALUE = "ear"
"""Distance in the items' column `value`."""
PERCENTILES = {"kl_median": 0.5, "kl_p90": 0.9, "kl_p99": 0.99, "kl_p999": 0.999}
"""Share of tokens with at most this KL, by metric."""

PER_DECADE = 10
"""Bins of KL in a factor of ten. Both a percentile and its estimate are in one bin, so the estimate
is off by at most a factor of 10 ** (1 / PER_DECADE), 1.26."""
LOW, HIGH = -6, 2
"""Exponents of the smallest and the largest edge of a bin, in nats. Below is rounding."""
EDGES: Array = 10.0 ** (np.arange(LOW * PER_DECADE, HIGH * PER_DECADE + 1) / PER_DECADE)
BEYOND = 10
"""Fewest tokens of a bucket above a percentile. With fewer, the percentile is chance."""
TAILS = "kl_by_bucket"
"""Note of a record with what `tails_of` returns."""
LARGEST = "largest"
"""Column with the largest KL of each window."""

CONFIDENCE: Array = np.array([0.2, 0.4, 0.6, 0.8])
"""Edges between the buckets of the original's confidence."""
CONFIDENCES = (
    "confidence below 0.2", "confidence 0.2 to 0.4", "confidence 0.4 to 0.6",
    "confidence 0.6 to 0.8", "confidence above 0.8",
)  # fmt: skip
FIRST_POSITIONS = 16
"""End of the first bucket of positions. Each later one ends at twice the position of the last."""
KINDS = ("digit", "word start", "code punctuation", "other token")
"""Kinds of the token to predict, as `kinds.kind_of` finds them."""

LEVEL = 0.05
"""1 - coverage of all intervals."""
DRAWS = 4000
"""Resamples of the articles for the interval of a percentile."""


class Interval(NamedTuple):
    """A number with its 95% interval. None: the number has no interval."""

    value: float
    low: float | None = None
    high: float | None = None


def buckets_of_positions(seqlen: int) -> list[tuple[str, int, int]]:
    """Return the label, the first and the last position of each bucket. Position 0 is not
    predicted."""
    out, first, end = [], 1, FIRST_POSITIONS
    while first < seqlen:
        last = min(end, seqlen) - 1
        out.append((f"position {first} to {last}", first, last))
        first, end = end, 2 * end
    return out


def items_of(
    distances: Array, kinds: NDArray[np.int64], clusters: Sequence[str]
) -> tuple[Item, ...]:
    """Return an item for each window.

    Args:
        distances: [windows, positions, distances], from position 1.
        kinds: index in KINDS of each token to predict, [windows, positions].
        clusters: article of each window.
    """
    positions = distances.shape[1]
    by_name: dict[str, Array] = {name: distances[..., i] for i, name in enumerate(DISTANCES)}
    columns = {name: by_name[name].sum(1) for name in DISTANCES}
    columns[LARGEST] = by_name["kl"].max(1)
    for label, chosen in _buckets_of(distances, kinds).items():
        columns[f"{label}: tokens"] = chosen.sum(1).astype(np.float64)
        for name in DISTANCES:
            columns[f"{label}: {name}"] = (by_name[name] * chosen).sum(1)
    bins = np.searchsorted(EDGES, by_name["kl"], side="right")
    for i in np.unique(bins):
        columns[f"bin {i}"] = (bins == i).sum(1).astype(np.float64)
    values = columns.pop(VALUE)
    out = []
    for i, cluster in enumerate(clusters):
        beside = {name: float(column[i]) for name, column in columns.items()}
        out.append(Item(str(i), cluster, float(values[i]), float(positions), beside))
    return tuple(out)


def tails_of(distances: Array, kinds: NDArray[np.int64]) -> dict[str, dict[str, float | None]]:
    """Return the percentiles and the largest KL of each bucket. None: too few tokens (`BEYOND`).

    They are of the tokens themselves, because bins of each bucket would multiply the size of a
    record. Arguments: as for `items_of`.
    """
    out = {}
    for label, chosen in _buckets_of(distances, kinds).items():
        kl = np.sort(distances[chosen, DISTANCES.index("kl")])
        tail: dict[str, float | None] = dict.fromkeys((*PERCENTILES, "kl_max"))
        for name, share in PERCENTILES.items():
            at = math.ceil(share * len(kl))
            if len(kl) - at >= BEYOND:
                tail[name] = float(kl[at - 1])
        if len(kl):
            tail["kl_max"] = float(kl[-1])
        out[label] = tail
    return out


def _buckets_of(distances: Array, kinds: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    """Return which tokens are in each bucket, [windows, positions], by its label."""
    windows, positions, _ = distances.shape
    confidence = distances[..., DISTANCES.index("confidence")]
    bucket = np.searchsorted(CONFIDENCE, confidence, side="right")
    out = {label: bucket == i for i, label in enumerate(CONFIDENCES)}
    at = np.broadcast_to(np.arange(1, positions + 1), (windows, positions))
    for label, first, last in buckets_of_positions(positions + 1):
        out[label] = (first <= at) & (at <= last)
    out |= {label: kinds == i for i, label in enumerate(KINDS)}
    return out


def read_items(items: Sequence[Item]) -> Items:
    """Return items as `bench.results.items` reads them from a file."""
    columns: dict[str, Array] = {"value": np.array([item.value for item in items])}
    for name in items[0].beside:
        columns[name] = np.array([item.beside[name] for item in items])
    return Items(
        np.array([item.item_id for item in items]),
        np.array([item.cluster_id for item in items]),
        np.array([item.weight for item in items]),
        columns,
    )


def labels_of(items: Items) -> list[str]:
    """Return the labels of all buckets, in order."""
    end = ": tokens"
    return [name.removesuffix(end) for name in items.columns if name.endswith(end)]


def histogram(items: Items) -> Array:
    """Return the number of tokens in each bin of KL, [windows, bins]. The first bin ends at the
    first edge, and the last begins at the last edge."""
    counts = np.zeros((len(items.ids), len(EDGES) + 1))
    for i in range(counts.shape[1]):
        counts[:, i] = items.columns.get(f"bin {i}", 0.0)
    return counts


def percentiles(counts: Array, share: float) -> Array:
    """Return the KL that a share of the tokens has at most, [rows]. counts: [rows, bins].

    Within a bin, the logarithm of KL is taken as uniform.
    """
    sums = counts.cumsum(1)
    wanted = share * sums[:, -1:]
    at = (sums < wanted).sum(1)
    rows = np.arange(len(counts))
    inside = counts[rows, at]
    before = sums[rows, at] - inside
    part = (wanted[:, 0] - before) / np.where(inside > 0, inside, 1)
    logs = (at - 1 + part) / PER_DECADE + LOW
    found: Array = 10.0**logs
    return found


def percentile(items: Items, share: float) -> float:
    """Return the KL in nats that a share of the tokens has at most."""
    whole = float(percentiles(histogram(items).sum(0, keepdims=True), share)[0])
    return min(whole, float(items.columns[LARGEST].max()))


def by_article(items: Items) -> tuple[NDArray[np.int64], str]:
    """Return the index of each window's article, and the unit that intervals take as independent.
    It is the window if the text has one article."""
    names, index = np.unique(items.clusters.astype(str), return_inverse=True)
    if len(names) < 2:
        return np.arange(len(items.ids)), "windows"
    return index, "articles"


def percentile_interval(items: Items, share: float) -> Interval:
    """Return a percentile of KL. Its interval holds 95% of the percentiles of resampled
    articles."""
    value, (index, _) = percentile(items, share), by_article(items)
    units = int(index.max()) + 1
    if units < 2:
        return Interval(value)
    counts = np.zeros((units, len(EDGES) + 1))
    np.add.at(counts, index, histogram(items))
    # Fixed, so that two calls give the same interval.
    rng = np.random.default_rng(units)
    drawn = rng.multinomial(units, np.full(units, 1 / units), size=DRAWS)
    found = percentiles(drawn @ counts, share)
    low, high = np.quantile(found, (LEVEL / 2, 1 - LEVEL / 2))
    return Interval(value, min(float(low), value), max(float(high), value))


def mean_interval(items: Items, distance: str, label: str = "") -> Interval:
    """Return the mean of a distance over tokens, with the interval of a studentized bootstrap of
    articles.

    label: bucket of the tokens. "": all tokens.
    """
    column = "value" if distance == VALUE else distance
    sums, tokens = items.columns[column if not label else f"{label}: {distance}"], items.weights
    if label:
        tokens = items.columns[f"{label}: tokens"]
    index, _ = by_article(items)
    of_units: Array = np.bincount(index, sums).astype(np.float64)
    sizes: Array = np.bincount(index, tokens).astype(np.float64)
    of_units, sizes = of_units[sizes > 0], sizes[sizes > 0]
    if not len(sizes):
        return Interval(math.nan)
    value = float(of_units.sum() / sizes.sum())
    if len(sizes) < 2:
        return Interval(value)
    found = studentized_bootstrap(of_units[None], sizes, LEVEL)
    low = max(found.low, 0.0)
    high = found.high if distance in ("kl", "reverse_kl", "js_divergence") else min(found.high, 1.0)
    return Interval(value, low, high)


def derived(metric: str, items: Items) -> float | None:
    """Return a number with the aggregation "own", or None if the items do not give it."""
    if LARGEST not in items.columns:
        return None
    if metric == "kl_max":
        return float(items.columns[LARGEST].max())
    return percentile(items, PERCENTILES[metric])
