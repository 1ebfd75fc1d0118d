"""Compute the readings of a record again from its items and from each other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.results import metrics
from bench.results.record import ReadingRow, Record
from methods.pattern import Pattern

Array = NDArray[np.float64]

TOLERANCE = 1e-9
"""Relative difference between a number and its items that is no damage: only the summation order may differ."""
SPEEDUP_DIGITS = 4
"""Digits of a stored speedup. Some measures round it."""


class Items(NamedTuple):
    """Scores by item, sorted by item id. columns: `value`, and those of other metrics by their names."""

    ids: NDArray[Any]
    clusters: NDArray[Any]
    weights: Array
    columns: dict[str, Array]


class Derived(NamedTuple):
    """The parts of a reading that items give. None: a record must not state the part."""

    value: float
    stderr: float | None = None
    n: int | None = None


def derive(record: Record, items: Items) -> Iterator[tuple[ReadingRow, Derived]]:
    """Yield the readings that a record's items give, each with what they give. Raise ArithmeticError without a finite mean.

    These are means over items, medians of timings, the sparsity, and the size in bytes.
    """
    for reading in record.readings:
        if reading.value is None:
            continue
        values = scores_of(reading.metric, record, items)
        if values is not None and _reduces(reading):
            yield reading, _reduced(reading, values, items.weights)
        elif (derived := _packed(reading, record, items)) is not None:
            yield reading, derived


def scores_of(metric: str, record: Record, items: Items) -> Array | None:
    """Return a metric's column, or None if the items have no scores of it.

    The column `value` has no name. It belongs to the only metric without a column that averages items. If none averages
    items, it belongs to the first metric without a column.
    """
    if metric in items.columns:
        return items.columns[metric]
    others = [reading for reading in record.readings if reading.metric not in items.columns]
    owners = list(filter(_reduces, others)) or others[:1]
    return items.columns.get("value") if [reading.metric for reading in owners] == [metric] else None


def differences(reading: ReadingRow, derived: Derived) -> Iterator[str]:
    """Yield a sentence for each part of a reading that is not the derived one. A stored part may be missing."""
    parts = ((reading.value, derived.value), (reading.stderr, derived.stderr), (reading.n, derived.n))
    for what, (stored, value) in zip(("", "standard error of ", "n of "), parts, strict=True):
        if stored is not None and value is None:
            yield f"{what}{reading.metric} is {stored:.9g}, but it has none"
        elif stored is not None and value is not None and not _equal(reading.metric, stored, value):
            yield f"{what}{reading.metric} is {stored:.9g}, but its items give {value:.9g}"


def _equal(metric: str, stored: float, value: float) -> bool:
    rounded = float(f"{value:.{SPEEDUP_DIGITS}g}") if metric == "speedup" else value
    return stored == rounded or math.isclose(stored, value, rel_tol=TOLERANCE, abs_tol=1e-12)


def _reduces(reading: ReadingRow) -> bool:
    return metrics.find(reading.metric).averages_items or reading.metric in ("sparsity", *metrics.SPEEDS)


MADE_ELSEWHERE = "folder"
"""Name of the method whose bytes are those of its files."""


def _reduced(reading: ReadingRow, values: Array, weights: Array) -> Derived:
    metric, n = metrics.find(reading.metric), len(values)
    if not (np.isfinite(values).all() and np.isfinite(weights).all() and weights.sum() > 0):
        raise ArithmeticError(f"{reading.metric} has no finite mean")
    if metric.name in metrics.SPEEDS:
        if values.min() <= 0:
            raise ArithmeticError(f"a timing of {reading.metric} is 0 or less")
        if metric.name == "speedup":
            return Derived(math.exp(math.fsum(np.log(values)) / n), n=n)
        # A rate is the reciprocal of the median time.
        return Derived(float(1 / np.median(1 / values) if reading.unit.endswith("/s") else np.median(values)), n=n)
    if metric.name == "sparsity":
        return Derived(math.fsum(values * weights) / math.fsum(weights))
    # The value of a window is a sum over its tokens.
    mean = math.fsum(values) / (math.fsum(weights) if metric.windowed else n)
    with np.errstate(all="ignore"):
        each = values / weights if metric.windowed else values
        stderr = float(each.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    value = math.exp(mean) if metric.log else mean
    return Derived(value, stderr * value if metric.log else stderr, n)


def _packed(reading: ReadingRow, record: Record, items: Items) -> Derived | None:
    """Derive the bits per weight and the packed bytes of a `size` record, as bench.measures.size defines them.

    A quantizer's bits are in its notes, which are in another record, so only the bytes follow from the bits. A model made
    elsewhere has the bits of its files: its packed bytes follow if nothing of it was packed.
    """
    known = {r.metric: r.value for r in record.readings if r.value is not None}
    if not {"parameters", "bytes", "sparsity"} <= known.keys() or not known["parameters"]:
        return None
    item_bits = 8 * known["bytes"] / known["parameters"]
    pattern = Pattern.parse(record.identity.pattern)
    packs = bool(pattern.m) and pattern.n < pattern.m
    targets = math.fsum(items.weights)
    beside = 8 * known.get("adapter_bytes", 0.0) / max(1.0, targets)
    if any(stage["name"] == MADE_ELSEWHERE for stage in record.key_inputs.get("stages", ())):
        return Derived(known["bytes"]) if reading.metric == "bytes_packed" and not packs else None
    if reading.metric == "bits_per_weight" and record.identity.quantizer == "none":
        # A model that breaks its pattern counts as dense.
        choices = (item_bits, item_bits * pattern.n / pattern.m + 1) if packs else (item_bits,)
        return Derived(min((bits + beside for bits in choices), key=lambda bits: abs(bits - (reading.value or 0.0))))
    if reading.metric == "bytes_packed" and (bits := known.get("bits_per_weight")) is not None:
        terms = round((known["relative_flops"] - 1 + pattern.share) * targets) if "relative_flops" in known else 0
        saved = terms * item_bits / 8 - known.get("adapter_bytes", 0.0)  # by factors that are rounded
        return Derived(math.ceil(known["bytes"] - targets * (item_bits - bits + beside) / 8 - saved))
    return None
