"""Estimates of what a plan costs, from past records, or else from shapes and a quick timing of this
machine."""

from __future__ import annotations

import timeit
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

from bench.planning.artifact import Measurement, Plan
from bench.planning.cards import Cards, enough
from bench.planning.cost_model import WITHIN, CostModel
from bench.planning.memory import (
    estimate_bytes,
    estimate_device_bytes,
    estimate_disk_bytes,
    is_streamed,
)
from bench.planning.past_costs import (
    TimedPart,
    estimate_tokens,
    machine_of,
    measure_part,
    read_past,
    stage_part,
)
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
    if (error := model.error()) is None:
        return (
            "times and memory are arithmetic: fewer than three artifacts were measured on this "
            "machine in this way"
        )
    return (
        f"times and memory are fitted to {len(model.past)} artifacts measured on this machine. If "
        f"the time of each is estimated from the others, {error.share:.0%} of the estimates are "
        f"within a factor of {WITHIN:g}, half within {error.median:.2f}"
    )


def rows(
    plan: Plan, model: CostModel | None = None, cards: Cards | None = None
) -> list[dict[str, Any]]:
    """Return a row for each artifact: measurements, how many are done, tokens, and estimates of
    time, memory and disk.

    A stage that several artifacts share counts for the first of them, and one in the cache does not
    count. cards: cards that are named, whose datasheet gives the time. They are of another machine,
    with another cache.
    """
    model = model or fit_model(plan)
    store = ReadOnlyStore(plan.spec.results) if plan.spec.results.exists() else None
    out = []
    made: set[str] = set() if cards else _built(plan.artifacts().values())
    for measurements in plan.artifacts().values():
        artifact = measurements[0].artifact
        done = [m for m in measurements if store and store.finished(m.key)]
        left = [m for m in measurements if m not in done]
        work = _work(left, made) if left else _Work(0, 0.0, ())
        device_bytes = estimate_device_bytes(artifact)
        ratio = (
            1.0
            if is_streamed(artifact)
            else model.memory_ratio(artifact.training is not None) or 1.0
        )
        on_device = (
            {}
            if device_bytes is None
            else {"about_device_GB": round(device_bytes * ratio / 1e9, 1)}
        )
        stages = sum(part.kinds[0].startswith("stage") for part in work.parts)
        seconds = _seconds(work, model, artifact.device) if left else 0.0
        if cards:
            seconds = START_S + work.operations / cards.flops if left else 0.0
        out.append(
            {
                "model": artifact.model,
                "method": artifact.method,
                "pattern": artifact.pattern,
                "quantizer": artifact.quantizer,
                "seed": "" if artifact.seed is None else str(artifact.seed),
                "measurements": len(measurements),
                "done": len(done),
                "tokens": work.tokens,
                "about_s": round(seconds) if seconds is not None else None,
                "about_GB": round(
                    estimate_bytes(artifact) * (1.0 if on_device else ratio) / 1e9, 1
                ),
                **on_device,
                **({"cards_enough": enough(artifact, cards)} if cards else {}),
                "about_disk_GB": round(
                    estimate_disk_bytes(artifact, stages) / 1e9 if stages else 0.0, 1
                ),
            }
        )
    return out


def _seconds(work: _Work, model: CostModel, device: str) -> float | None:
    """Estimate the time of an artifact. None: it is unknown, on a GPU without records."""
    fitted = model.seconds(work.parts)
    if fitted is not None:
        return START_S + fitted
    return START_S + work.operations / _flops() if device == "cpu" else None


def estimate_seconds(missing: Sequence[list[Measurement]], model: CostModel) -> dict[str, float]:
    """Estimate the time of each artifact, by its key, without the stages in the cache.

    Without records for all artifacts, the times are those of this machine's CPU. For a GPU only
    their ratios are meaningful.
    """
    made = _built(missing)
    works = {some[0].artifact.key: _work(some, made) for some in missing}
    fitted = {key: model.seconds(work.parts) for key, work in works.items()}
    if any(seconds is None for seconds in fitted.values()):
        fitted = {key: work.operations / _flops() for key, work in works.items()}
    return {key: START_S + (seconds or 0.0) for key, seconds in fitted.items()}


def _built(artifacts: Iterable[list[Measurement]]) -> set[str]:
    """Return the names of the stages that are in the cache."""
    return {name for some in artifacts for name in some[0].artifact.cache_names if is_built(name)}


def count_operations(artifacts: Iterable[list[Measurement]]) -> float:
    """Estimate the floating-point operations of all measurements. The result is the same on every
    machine."""
    made: set[str] = set()
    return sum(_work(measurements, made).operations for measurements in artifacts)


class _Work(NamedTuple):
    tokens: int
    operations: float
    parts: tuple[TimedPart, ...]


def _work(measurements: list[Measurement], made: set[str]) -> _Work:
    """Return the work of one artifact, without the stages in `made`, by their names in the cache.
    Add its stages."""
    artifact = measurements[0].artifact
    parameters = artifact.sizes.parameters
    counts = [
        (m, m.options.get("tokens") or estimate_tokens(m.measure, m.config)) for m in measurements
    ]
    parts = [measure_part(m.measure, m.protocol.name, parameters, count) for m, count in counts]
    # Measures with one protocol read the same windows in one pass.
    tokens = passes = sum({m.protocol: count for m, count in counts}.values())
    for name, stage in zip(artifact.cache_names, artifact.stages, strict=True):
        if name in made:
            continue
        made.add(name)
        calibrated, trained = 0, 0
        if "calibration" in stage.needs and (calibration := artifact.calibration):
            calibrated = calibration.sequences * calibration.seqlen
            tokens += calibrated
            # Processes on a CPU share its cores.
            if artifact.device != "cpu":
                calibrated //= calibration.processes
            # Two passes over the blocks, and about one for the Hessians.
            passes += 3 * calibrated
        if "training" in stage.needs and artifact.training:
            trained = artifact.training.tokens
            tokens += trained
            trained //= artifact.nodes if artifact.device == "cpu" else artifact.processes
            # One pass forward, two backward, and one of the teacher.
            passes += 4 * trained
        parts.append(stage_part(stage.name, parameters, calibrated, trained))
    return _Work(tokens, 2.0 * parameters * passes, tuple(parts))


@cache
def _flops() -> float:
    """Measure this machine's floating-point operations per second for float32 matrices, times
    EFFICIENCY.

    Take the fastest of eight products. Other work on the machine slows the rest.
    """
    import numpy as np

    a = np.ones((768, 768), dtype=np.float32)
    return EFFICIENCY * 2 * 768**3 / min(timeit.repeat(lambda: a @ a, number=1, repeat=8))
