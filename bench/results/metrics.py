"""Metrics by name, as the measures declare them (`methods.contract.measure_info.Metric`)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

from bench.catalog import metric_owners
from methods.contract.measure_info import Metric

DECIDES_NO_NUMBER = True

TIME_MARGIN = 0.05
"""Margin of a time or speed that declares none. A gate's settings name it `latency`."""

MEAN_BITS = "mean_bits_per_byte"
"""Mean over the tasks of a track, which models with other tokenizers can share."""

SIZE = "bytes_packed"
"""Metric of size that is compared with quality."""


@lru_cache(maxsize=256)
def find(name: str, unit: str | None = None) -> Metric:
    """Return the metric of this name, or one with the defaults if no installed measure declares it.

    unit: the unit of its reading, which overrides the metric's.
    """
    owned = metric_owners.find(name)
    metric = owned.metric if owned else Metric(name)
    if unit is not None and unit != metric.unit:
        metric = replace(metric, unit=unit)
    if metric.is_time and metric.margin is None:
        return replace(metric, margin=TIME_MARGIN)
    return metric


def by_quality(names: Iterable[str]) -> list[str]:
    """Return the metrics that rank rows, the first one to use first."""
    ranking = [name for name in dict.fromkeys(names) if find(name).quality]
    return sorted(ranking, key=lambda name: find(name).quality)


def column_order(name: str) -> int:
    """Return the place of a metric's columns in a table. Hidden metrics come last."""
    metric = find(name)
    if metric.in_tables:
        return metric.order
    return Metric(name).order
