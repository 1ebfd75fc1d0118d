"""Estimates of what a plan costs, from past records, or else from shapes and a quick timing of this
machine."""

from __future__ import annotations

import timeit
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from bench.parts.forecasts.cards import Cards, enough
from bench.parts.forecasts.cost_model import WITHIN, CostModel
from bench.parts.forecasts.past_costs import machine_of, read_past, timed_parts
from bench.planning.artifact import Artifact, Measurement, Plan
from bench.planning.memory import (
    estimate_bytes,
    estimate_device_bytes,
    estimate_disk_bytes,
    is_streamed,
)
from bench.planning.work import Work, count_work
from bench.results.store import ReadOnlyStore
from bench.system import provenance
from bench.system.cache import is_built

START_S = 1.0
"""Seconds to fork a worker and load a small model."""
EFFICIENCY = 0.6
"""Speed of a forward pass relative to a large matrix product."""


def fit_model(plan: Plan) -> CostModel:
    """Fit a cost model to past records with the plan's machine, device, number format and
    threads."""
    if not plan.measurements:
        return CostModel(())
    artifact = plan.measurements[0].artifact
    wanted = machine_of(
        provenance.machine(), artifact.device.split(":")[0], artifact.computed_in, artifact.threads
    )
    return CostModel(past for past in read_past(plan.spec.results) if past.machine == wanted)


def describe_error(model: CostModel) -> str:
    """Return a sentence about the source of the estimates and their error."""
    error = model.error()
    if error is None:
        return (
            "times and memory are arithmetic: fewer than three artifacts were measured on this "
            "machine in this way"
        )
    return (
        f"times and memory are fitted to {len(model.past)} artifacts measured on this machine. If "
        f"the time of each is estimated from the others, {error.share:.0%} of the estimates are "
        f"within a factor of {WITHIN:g}, half within {error.median:.2f}"
    )


def estimate_columns(
    plan: Plan, model: CostModel, cards: Cards | None = None
) -> list[dict[str, Any]]:
    """Return estimates for each artifact: tokens, time, memory and disk.

    A stage that several artifacts share counts for the first of them, and one in the cache does not
    count. cards: cards that are named, whose datasheet gives the time. They are of another machine,
    with another cache.
    """
    store = ReadOnlyStore(plan.spec.results) if plan.spec.results.exists() else None
    made: set[str] = set() if cards else _built(plan.artifacts().values())
    out = []
    for measurements in plan.artifacts().values():
        artifact = measurements[0].artifact
        if cards:
            artifact = cards.choose_recompute(artifact)
        left = [m for m in measurements if not (store and store.finished(m.key))]
        work = Work(0, 0.0, 0.0, 0.0, (), ())
        seconds: float | None = 0.0
        if left:
            work = count_work(artifact, left, made)
            seconds = _seconds(work, artifact, model, cards)
        columns: dict[str, Any] = {"tokens": work.tokens}
        columns["about_s"] = None if seconds is None else round(seconds)
        columns |= _memory_columns(artifact, model)
        if cards:
            columns["cards_enough"] = enough(artifact, cards)
        stages = len(work.stages)
        disk = estimate_disk_bytes(artifact, stages) if stages else 0.0
        out.append(columns | {"about_disk_GB": _gigabytes(disk)})
    return out


def _memory_columns(artifact: Artifact, model: CostModel) -> dict[str, float]:
    """Return the memory of an artifact, scaled by what past ones took of the memory that computes:
    a GPU's, or else the main memory."""
    main, on_device = estimate_bytes(artifact), estimate_device_bytes(artifact)
    trains = artifact.training is not None
    ratio = 1.0
    # On a GPU the estimate of a training has its activations. On a CPU the records add them.
    if not is_streamed(artifact) and not (trains and on_device):
        ratio = model.memory_ratio(trains) or 1.0
    if on_device is None:
        return {"about_GB": _gigabytes(main * ratio)}
    return {"about_GB": _gigabytes(main), "about_device_GB": _gigabytes(on_device * ratio)}


def _gigabytes(amount: float) -> float:
    return round(amount / 1e9, 1)


def _seconds(work: Work, artifact: Artifact, model: CostModel, cards: Cards | None) -> float | None:
    """Estimate the time of an artifact. None: it is unknown, on a GPU without records."""
    if cards:
        return START_S + cards.seconds(work)
    fitted = model.seconds(timed_parts(work, artifact))
    if fitted is not None:
        return START_S + fitted
    return START_S + work.operations / _flops() if artifact.device == "cpu" else None


def estimate_seconds(missing: Sequence[list[Measurement]], model: CostModel) -> dict[str, float]:
    """Estimate the time of each artifact, by its key, without the stages in the cache.

    Without records for all artifacts, the times are those of this machine's CPU. For a GPU only
    their ratios are meaningful.
    """
    made = _built(missing)
    fitted: dict[str, float] = {}
    counted: dict[str, float] = {}
    for measurements in missing:
        artifact = measurements[0].artifact
        work = count_work(artifact, measurements, made)
        counted[artifact.key] = work.operations
        seconds = model.seconds(timed_parts(work, artifact))
        if seconds is not None:
            fitted[artifact.key] = seconds
    if len(fitted) < len(counted):
        fitted = {key: operations / _flops() for key, operations in counted.items()}
    return {key: START_S + seconds for key, seconds in fitted.items()}


def _built(artifacts: Iterable[list[Measurement]]) -> set[str]:
    """Return the names of the stages that are in the cache."""
    return {name for some in artifacts for name in some[0].artifact.cache_names if is_built(name)}


@cache
def _flops() -> float:
    """Measure this machine's floating-point operations per second for float32 matrices, times
    EFFICIENCY.

    Take the fastest of eight products. Other work on the machine slows the rest.
    """
    import numpy as np

    a = np.ones((768, 768), dtype=np.float32)
    return EFFICIENCY * 2 * 768**3 / min(timeit.repeat(lambda: a @ a, number=1, repeat=8))
