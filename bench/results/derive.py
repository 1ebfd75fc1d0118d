"""Compute the readings of a record again from its items and from each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.catalog import metric_owners, registry
from bench.results import metrics
from bench.results.record import ReadingRow, Record

Array = NDArray[np.float64]

TOLERANCE = 1e-9
"""Relative difference between a number and its items that is no damage: only the summation order
may differ."""
SPEEDUP_DIGITS = 4
"""Digits of a stored speedup. Some measures round it."""


class Items(NamedTuple):
    """Scores by item, sorted by item id. columns: `value`, and those of other metrics by their
    names."""

    ids: NDArray[Any]
    clusters: NDArray[Any]
    weights: Array
    columns: dict[str, Array]


class Derived(NamedTuple):
    """The parts of a reading that items give. None: a record must not state the part."""

    value: float
    stderr: float | None = None
    n: int | None = None
    digits: int | None = None
    """Digits to which some measures round the value. None: none does."""

    def agrees(self, stored: float, value: float) -> bool:
        """Return whether a stored number is a derived one, up to the summation order or
        rounding."""
        rounded = value if self.digits is None else float(f"{value:.{self.digits}g}")
        return stored == rounded or math.isclose(stored, value, rel_tol=TOLERANCE, abs_tol=1e-12)


def derive(record: Record, items: Items) -> Iterator[tuple[ReadingRow, Derived]]:
    """Yield the readings that a record's items give, each with what they give. Raise
    ArithmeticError without a finite mean.

    The aggregation of a metric says how (`methods.contract.measure_info.Metric`).
    """
    for reading in record.readings:
        derived = None if reading.value is None else _derive(reading, record, items)
        if derived is not None:
            yield reading, derived


def _derive(reading: ReadingRow, record: Record, items: Items) -> Derived | None:
    metric = metrics.find(reading.metric)
    if metric.aggregation == "own":
        return derive_own(metric.name, record, items)
    values = scores_of(metric.name, record, items)
    reduce = REDUCERS.get(metric.aggregation)
    if values is None or reduce is None:
        return None
    if not (
        np.isfinite(values).all() and np.isfinite(items.weights).all() and items.weights.sum() > 0
    ):
        raise ArithmeticError(f"{metric.name} has no finite mean")
    return reduce(reading, values, items.weights)


def derive_own(metric: str, record: Record, items: Items) -> Derived | None:
    """Return what the measure of a metric with the aggregation "own" derives. Raise UserError if a
    plug-in fails."""
    owned = metric_owners.find(metric)
    assert owned is not None
    kind = registry.load(owned.entry)
    with registry.guarded(owned.entry):
        found = kind.derive(metric, record, items)
        if found is None or isinstance(found, Derived):
            return found
        return Derived(float(found), n=len(items.ids))


def pseudo_values(metric: str, record: Record, items: Items) -> Array | None:
    """Return scores of a number with the aggregation "own", one for each item, or None if the items
    do not give it.

    They are jackknife pseudo-values (Tukey 1958), moved so that their mean is the number itself.
    """
    whole, n = derive_own(metric, record, items), len(items.ids)
    if whole is None or n < 2:
        return None
    without = []
    for i in range(n):
        kept = np.arange(n) != i
        columns = {name: values[kept] for name, values in items.columns.items()}
        part = derive_own(
            metric,
            record,
            Items(items.ids[kept], items.clusters[kept], items.weights[kept], columns),
        )
        without.append(math.nan if part is None else part.value)
    changes = np.mean(without) - np.array(without)
    # The value of a window is a sum over its tokens.
    values: Array = (whole.value + (n - 1) * changes) * items.weights.mean()
    return values


def scores_of(metric: str, record: Record, items: Items) -> Array | None:
    """Return a metric's column, or None if the items have no scores of it.

    The column `value` has no name. It belongs to the only metric without a column that averages
    items. If none averages items, it belongs to the first metric without a column.
    """
    if metric in items.columns:
        return items.columns[metric]
    others = [reading for reading in record.readings if reading.metric not in items.columns]
    owners = [
        reading for reading in others if metrics.find(reading.metric).aggregation in REDUCERS
    ] or others[:1]
    if [reading.metric for reading in owners] != [metric]:
        return None
    return items.columns.get("value")


def differences(reading: ReadingRow, derived: Derived) -> Iterator[str]:
    """Yield a sentence for each part of a reading that is not the derived one. A stored part may be
    missing."""
    parts = (
        (reading.value, derived.value),
        (reading.stderr, derived.stderr),
        (reading.n, derived.n),
    )
    for what, (stored, value) in zip(("", "standard error of ", "n of "), parts, strict=True):
        if stored is not None and value is None:
            yield f"{what}{reading.metric} is {stored:.9g}, but it has none"
        elif stored is not None and value is not None and not derived.agrees(stored, value):
            yield f"{what}{reading.metric} is {stored:.9g}, but its items give {value:.9g}"


def _mean(reading: ReadingRow, values: Array, weights: Array) -> Derived:
    return _window_mean(reading, values, np.ones_like(weights))


def _window_mean(reading: ReadingRow, values: Array, weights: Array) -> Derived:
    # The value of a window is a sum over its tokens.
    mean, n = math.fsum(values) / math.fsum(weights), len(values)
    with np.errstate(all="ignore"):
        stderr = float((values / weights).std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    return Derived(mean, stderr, n)


def _exp_of_window_mean(reading: ReadingRow, values: Array, weights: Array) -> Derived:
    log = _window_mean(reading, values, weights)
    value = math.exp(log.value)
    return log._replace(value=value, stderr=log.stderr and log.stderr * value)


def _weighted_mean(reading: ReadingRow, values: Array, weights: Array) -> Derived:
    return Derived(math.fsum(values * weights) / math.fsum(weights))


def _median_of_timings(reading: ReadingRow, values: Array, weights: Array) -> Derived:
    _require_positive(reading, values)
    # A rate is the reciprocal of the median time.
    median = 1 / np.median(1 / values) if reading.unit.endswith("/s") else np.median(values)
    return Derived(float(median), n=len(values))


def _mean_of_speedups(reading: ReadingRow, values: Array, weights: Array) -> Derived:
    _require_positive(reading, values)
    return Derived(
        math.exp(math.fsum(np.log(values)) / len(values)), n=len(values), digits=SPEEDUP_DIGITS
    )


def _require_positive(reading: ReadingRow, values: Array) -> None:
    if values.min() <= 0:
        raise ArithmeticError(f"a timing of {reading.metric} is 0 or less")


REDUCERS: dict[str, Callable[[ReadingRow, Array, Array], Derived]] = {
    "mean": _mean,
    "window mean": _window_mean,
    "exp of window mean": _exp_of_window_mean,
    "weighted mean": _weighted_mean,
    "median of timings": _median_of_timings,
    "mean of speedups": _mean_of_speedups,
}
"""Functions that compute a reading from item values and their weights, by the rule of its
metric."""
