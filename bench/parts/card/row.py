"""The numbers of a row, each with its interval, beside the dense model's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.catalog import registry
from bench.comparing import known_variance, result_arguments
from bench.comparing.result_set import ResultSet, row_of
from bench.formats.contract import ModelResults
from bench.parts.exports.result_sets import of_one_model, values_of
from bench.parts.fidelity import tally
from bench.parts.fidelity.report import interval_of
from bench.parts.fidelity.tally import Interval
from bench.reporting import pairwise
from bench.results import metrics
from bench.results.derive import Items, scores_of
from bench.results.identity import Identity
from bench.results.record import ReadingRow, Record
from bench.stats.bootstrap import Array, studentized_bootstrap
from bench.stats.ratios import wilson_interval


@dataclass(frozen=True)
class Number:
    """A number of a record."""

    record: Record
    reading: ReadingRow
    found: Interval
    """The number. It has an interval if the items give one."""
    original: float | None = None
    """The same number of the dense model."""
    change: Interval | None = None
    """Difference or ratio to the dense model, over the items of both."""

    @property
    def is_ratio(self) -> bool:
        return metrics.find(self.reading.metric, self.reading.unit).is_ratio


@dataclass(frozen=True)
class Row:
    """A compressed model of a results folder."""

    model: ModelResults
    numbers: tuple[Number, ...]
    results: ResultSet

    @property
    def identity(self) -> Identity:
        return self.model.identity


def read_row(record: Record, results: Path) -> Row:
    """Return the row of a record: the newest record of each measure and protocol that has a number.

    Raise UserError if the results cannot be read.
    """
    found = result_arguments.read(results, model=record.identity.model).with_cache()
    usable = [one for one in found.records if one.status == "ok" and one.readings]
    own = sorted((one for one in usable if row_of(one) == row_of(record)), key=lambda one: one.key)
    known = known_variance.learn(found)
    dense = {_conditions(one): one for one in usable if is_dense(one.identity)}
    numbers: list[Number] = []
    for one in own:
        before = dense.get(_conditions(one))
        numbers += _numbers(one, None if before is one else before, found, known)
    numbers.sort(key=lambda n: (metrics.column_order(n.reading.metric), n.record.key))
    return Row(of_one_model(own or [record]), tuple(numbers), found)


def is_dense(identity: Identity) -> bool:
    """Return whether it is of the unchanged model."""
    return identity.stages == ("dense",) and identity.quantizer == "none"


def _conditions(record: Record) -> tuple[object, ...]:
    """Return what a number shares with the dense model's."""
    one = record.identity
    return one.measure, one.protocol, one.dtype, one.arithmetic, one.device


def _numbers(
    record: Record,
    before: Record | None,
    results: ResultSet,
    known: known_variance.KnownVariance,
) -> Iterator[Number]:
    """Yield the numbers of a record that tables show, and that have a better side.

    before: the dense model's record.
    """
    items = results.items(record) if record.items else None
    originals = dict(_by_metric(before)) if before and not _is_beside_dense(record) else {}
    for reading, value in values_of(record):
        if not reading.better or not metrics.find(reading.metric, reading.unit).in_tables:
            continue
        change = None
        if before and before.items and items and reading.metric in originals:
            a, b = {before.identity.seed: before}, {record.identity.seed: record}
            compared = pairwise.compare(a, b, reading.metric, results, known)
            if compared:
                change = Interval(compared.value, compared.low, compared.high)
        found = _interval(record, reading, items) if items else None
        if found and found.low is not None and found.high is not None:
            # Both are sums of the same items, in another order.
            found = Interval(value, min(found.low, value), max(found.high, value))
        else:
            found = Interval(value)
        yield Number(record, reading, found, originals.get(reading.metric), change)


def _by_metric(record: Record) -> Iterator[tuple[str, float]]:
    for reading, value in values_of(record):
        yield reading.metric, value


def _is_beside_dense(record: Record) -> bool:
    """Return whether the measure is itself a comparison with the dense model."""
    name = record.identity.measure
    if not registry.is_installed("measures", name):
        return False
    return bool(getattr(registry.load(registry.lookup("measures", name)), "beside_dense", False))


def _interval(record: Record, reading: ReadingRow, items: Items) -> Interval | None:
    """Return a number with an interval over articles, or over questions. None: its items give
    none."""
    assert reading.value is not None
    name, value = reading.metric, float(reading.value)
    metric = metrics.find(name, reading.unit)
    if tally.LARGEST in items.columns and (name in tally.PERCENTILES or name in tally.DISTANCES):
        return interval_of(items, name)
    scores = scores_of(name, record, items)
    if scores is None:
        return None
    if (items.weights == 1).all() and set(scores.tolist()) <= {0.0, 1.0}:
        return Interval(value, *wilson_interval(scores.sum(), len(scores), tally.LEVEL))
    if metric.aggregation in ("mean", "window mean"):
        return _mean_over_articles(scores, items)
    return None


def _mean_over_articles(sums: Array, items: Items) -> Interval:
    """Return the mean of windows or questions, with the interval of a studentized bootstrap of
    articles. sums: sum of each window over its tokens, or the number of each question."""
    index, _ = tally.by_article(items)
    of_articles = np.bincount(index, sums).astype(np.float64)
    sizes = np.bincount(index, items.weights).astype(np.float64)
    value = float(of_articles.sum() / sizes.sum())
    if len(sizes) < 2:
        return Interval(value)
    found = studentized_bootstrap(of_articles[None], sizes, tally.LEVEL)
    return Interval(value, found.low, found.high)
