"""Metrics by name, each with the measure that declares it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

from bench.catalog import registry
from bench.catalog.declarations import CatalogEntry
from methods.contract.measure_info import Metric


class OwnedMetric(NamedTuple):
    """A metric, and the measure that declares it."""

    metric: Metric
    measure: str
    entry: CatalogEntry


@cache
def built_in() -> dict[str, OwnedMetric]:
    """Return the metrics of this package's measures by name."""
    return _by_name(registry.SECTIONS["measures"])


@cache
def of_plugins() -> dict[str, OwnedMetric]:
    """Return the metrics of plug-ins' measures by name. This imports every measure of a plug-in."""
    return {
        name: owned
        for name, owned in _by_name(registry.entries("measures")).items()
        if owned.entry.is_plugin
    }


def find(name: str) -> OwnedMetric | None:
    """Return a metric with its owner, or None if no installed measure declares it. Only an unknown
    name imports plug-ins."""
    return built_in().get(name) or of_plugins().get(name)


def ignored(measures: Iterable[str]) -> list[tuple[str, str]]:
    """Return each of these measures that declares a metric of another one, and a sentence on it.
    Raise UserError if one is unknown or broken.
    """
    out = []
    for measure in (name for name in measures if name not in registry.SECTIONS["measures"]):
        for metric in registry.lookup("measures", measure).metrics:
            owned = find(metric.name)
            if owned and owned.measure != measure:
                why = (
                    f"the facts of its metric {metric.name} are ignored, because {owned.measure} "
                    "has a metric of this name"
                )
                out.append((measure, f"{why}: rename it in the package"))
    return out


def _by_name(entries: Mapping[str, CatalogEntry]) -> dict[str, OwnedMetric]:
    """Return all metrics of some measures. The first owner of a name keeps it."""
    out: dict[str, OwnedMetric] = {}
    for measure, entry in entries.items():
        for metric in entry.metrics:
            out.setdefault(metric.name, OwnedMetric(metric, measure, entry))
    return out
