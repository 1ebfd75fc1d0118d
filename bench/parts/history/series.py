"""The history of a metric over commits: values, steps, and changes of machine or libraries.

The commits are those of the plug-in of a row, if a plug-in made it and its commit is known.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from bench.comparing.pairing import list_seeds, order, short_names
from bench.comparing.result_set import ResultSet
from bench.parts.history import changepoints
from bench.results import metrics
from bench.results.record import Record
from bench.results.rows import age
from bench.system.grouping import group_by
from methods.contract.errors import UserError


@dataclass(frozen=True)
class HistoryPoint:
    """The mean of a metric over the seeds of one commit."""

    commit: str
    dirty: bool
    recorded: str
    value: float
    seeds: int
    environment: Mapping[str, str]
    step: bool = False
    """True if a new level begins here."""
    surroundings: tuple[str, ...] = ()
    """Changes of machine, device and libraries since the previous point."""


@dataclass(frozen=True)
class Series:
    """The points of one row, with the same seeds, in the order of commits."""

    name: str
    metric: str
    unit: str
    points: tuple[HistoryPoint, ...]


def read(results: ResultSet, metric: str, matching: str = "") -> list[Series]:
    """Return the series of a metric for each row, and several for a row if its commits have
    different seeds.

    results: all records, not only the newest. matching: text that the names of rows must contain,
    or UserError.
    """
    with_metric = (r for r in results.records if r.status == "ok" and _values([r], metric))
    by_identity = group_by(with_metric, lambda record: record.identity.key("seed"))
    names = short_names(by_identity, ())
    if not by_identity:
        known = sorted(results.metrics)
        raise UserError(
            f"no record in {results.name!r} has the metric {metric!r}: known: "
            f"{', '.join(known) or 'none'}"
        )
    keys = [key for key in by_identity if matching in names[key]]
    if not keys:
        raise UserError(
            f"no row of {metric} in {results.name!r} has {matching!r} in its name: leave --row "
            "out to see all"
        )
    return [
        _series(names[key] + seeds, metric, records)
        for key in sorted(keys, key=lambda k: names[k])
        for seeds, records in sorted(_by_seeds(by_identity[key]).items())
    ]


def _by_seeds(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Group a row's records by the seeds of their commit, because means over different seeds are
    not comparable.

    Each key is the end of a name. It is empty if all commits have the same seeds.
    """
    out: dict[str, list[Record]] = {}
    for group in _by_commit(records).values():
        seeds = sorted({r.identity.seed for r in group}, key=order)
        out.setdefault(list_seeds(seeds), []).extend(group)
    return out if len(out) > 1 else {"": list(records)}


def _by_commit(records: Iterable[Record]) -> dict[tuple[str, bool], list[Record]]:
    return group_by(
        records, lambda r: (str(r.code.get("id") or "unknown"), bool(r.code.get("dirty")))
    )


def _series(name: str, metric: str, records: Sequence[Record]) -> Series:
    commits = _by_commit(sorted(records, key=age(records)))
    reading = next(r for r in records[0].readings if r.metric == metric)
    points = [_point(*key, group, metric) for key, group in commits.items()]
    values = np.array([p.value for p in points])
    if (values > 0).all() and metrics.find(metric, reading.unit).is_ratio:
        logs = np.log(values)
    else:
        logs = values
    steps = set(changepoints.find_steps(logs))
    changes = [
        (),
        *(_changes(before.environment, after.environment) for before, after in pairwise(points)),
    ]
    known = (replace(p, step=i in steps, surroundings=changes[i]) for i, p in enumerate(points))
    return Series(name, metric, reading.unit, tuple(known))


def _point(commit: str, dirty: bool, records: Sequence[Record], metric: str) -> HistoryPoint:
    newest = {r.identity.seed: r for r in records}.values()
    values = _values(newest, metric)
    mean = math.fsum(values) / len(values)
    return HistoryPoint(commit, dirty, records[0].recorded, mean, len(values), _environment(newest))


def _values(records: Iterable[Record], metric: str) -> list[float]:
    return [
        float(r.value)
        for x in records
        for r in x.readings
        if r.metric == metric and r.value is not None
    ]


def _environment(records: Iterable[Record]) -> dict[str, str]:
    *_, last = records
    parts = last.machine | last.versions
    if last.code is last.commit:
        # The commit says more than the version.
        parts.pop("cast-bench", None)
    else:
        parts["cast-bench"] = last.commit_id[:12] or parts.get("cast-bench")
    return {str(k): str(v) for k, v in parts.items() if v is not None}


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[str, ...]:
    """Return what differs between two points, of all that both record."""
    return tuple(
        f"{k} {old[k]} to {new[k]}" for k in sorted(old.keys() & new.keys()) if old[k] != new[k]
    )


def rows(series: Sequence[Series]) -> list[dict[str, Any]]:
    """Return a printable row for each point."""
    out = []
    for one in series:
        for before, p in zip((None, *one.points), one.points, strict=False):
            moved = ""
            if before and before.value:
                moved = f"{100 * (p.value / before.value - 1):+.2f}%"
            commit = p.commit[:12]
            if p.dirty:
                commit += "*"
            out.append(
                {
                    "row": one.name,
                    "commit": commit,
                    "recorded": p.recorded,
                    one.metric: float(f"{p.value:.6g}"),
                    "seeds": p.seeds,
                    "moved": moved,
                    "step": "step" if p.step else "",
                    "surroundings": "; ".join(p.surroundings),
                }
            )
    return out
