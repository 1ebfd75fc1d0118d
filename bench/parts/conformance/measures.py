"""Checks of a measure: two runs of it on the model tiny, dense and pruned."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.catalog import named_files, registry
from bench.parts.conformance.checks import require, row
from bench.planning.spec import Spec
from bench.results.folder_check import check_folder
from bench.results.record import Record
from methods.contract.errors import Skipped
from methods.contract.measure_info import MeasureInfo
from methods.contract.method import Needs

SPEC: dict[str, Any] = {
    "methods": ("magnitude",), "quantizers": ("none",), "perplexity": {"windows": 8},
    "zeroshot": {"limit": 8}, "device": "cpu", "threads": 1,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Trial:
    """A measure, and the records of two runs of it."""

    name: str
    kind: Any
    first: Sequence[Record]
    second: Sequence[Record]
    problems: tuple[str, ...]
    """Sentences of `bench check` on the first run."""


def declares_itself(trial: Trial) -> None:
    """Check that the class is a frozen dataclass with the name and valid needs."""
    kind = trial.kind
    require(
        getattr(kind, "name", None) == trial.name,
        f"its class does not have the name {trial.name!r} under which it is installed",
    )
    require(isinstance(getattr(kind, "needs", None), Needs), "`needs` is not a methods.Needs")
    frozen = getattr(getattr(kind, "__dataclass_params__", None), "frozen", False)
    require(frozen, "its class is no frozen dataclass: write @dataclass(frozen=True)")


def reads_a_dense_and_a_pruned_model(trial: Trial) -> None:
    """Check that each model has a finite number."""
    require(trial.first, "it planned no measurement")
    for record in trial.first:
        require(
            record.status == "ok",
            f"it has {record.status} on {record.identity.method}: {record.reason}",
        )
        require(record.readings, f"it has no number on {record.identity.method}")


def gives_the_same_twice(trial: Trial) -> None:
    """Check that two runs give the same numbers and items."""
    second = {record.key: record for record in trial.second}
    for record in trial.first:
        other = second[record.key]
        require(
            record.readings == other.readings,
            f"two runs differ on {record.identity.method}: use a seed",
        )
        same = (record.items and record.items.sha256) == (other.items and other.items.sha256)
        require(same, f"the items of two runs differ on {record.identity.method}")


def says_what_its_numbers_are(trial: Trial) -> None:
    """Check that each number has a unit, that of its declared metric, and that numbers which items
    give are theirs."""
    declared = {
        metric.name: metric for metric in getattr(trial.kind, "info", MeasureInfo()).metrics
    }
    for reading in (reading for record in trial.first for reading in record.readings):
        require(reading.unit, f"{reading.metric} has no unit: give 1 if it has none")
        metric = declared.get(reading.metric)
        same = metric is None or (metric.unit, metric.better) == (reading.unit, reading.better)
        require(
            same,
            f"{reading.metric} has another unit or direction than `info.metrics` declares: leave "
            "them out",
        )
    problem = next(iter(trial.problems), "")
    require(not problem, problem)


def has_a_column(trial: Trial) -> None:
    """Check that a leaderboard shows one of its metrics, and that its models have one protocol, and
    so share a column."""
    shown = {
        metric.name
        for metric in getattr(trial.kind, "info", MeasureInfo()).metrics
        if metric.on_board
    }
    measured = sorted({reading.metric for record in trial.first for reading in record.readings})
    require(
        shown & set(measured),
        f"`info.metrics` declares none of its metrics ({', '.join(measured)}) with on_board=True: "
        "declare one",
    )
    columns: dict[str, set[tuple[str, str]]] = {}
    for record in trial.first:
        found = {(reading.metric, record.identity.protocol.label) for reading in record.readings}
        columns.setdefault(record.identity.method, set()).update(found)
    require(
        len({frozenset(found) for found in columns.values()}) == 1,
        f"its models share no column: {columns}",
    )


CHECKS: tuple[Callable[[Trial], None], ...] = (
    declares_itself,
    reads_a_dense_and_a_pruned_model,
    gives_the_same_twice,
    says_what_its_numbers_are,
    has_a_column,
)


def rows(name: str, run: Callable[[Spec], Sequence[Record]]) -> Iterator[dict[str, Any]]:
    """Yield a row for each check of a measure, or raise Skipped. run: makes the records of a
    spec."""
    text = name
    (name,) = named_files.with_names("measures", [text])
    kind = registry.load(registry.lookup("measures", name))
    with TemporaryDirectory(prefix="cast-bench-") as home:
        spec = Spec(**SPEC | {"measures": (text,), "results": Path(home) / "results"})
        first = [record for record in run(spec) if record.identity.measure == name]
        skipped = next((record for record in first if record.status == "skipped"), None)
        if skipped:
            raise Skipped(skipped.reason)
        problems = check_folder(spec.results).problems
        shutil.rmtree(spec.results)
        second = [record for record in run(spec) if record.identity.measure == name]
        trial = Trial(name, kind, first, second, problems)
        for check in CHECKS:
            yield row(check, trial)
