"""About what a plan will cost, from shapes and one quick look at the machine. An estimate, and called one."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

from bench.inputs import corpora, tasks
from bench.planning.artifact import Measurement
from bench.planning.cost_model import WITHIN, CostModel
from bench.planning.memory import (
    count_parameters,
    estimate_bytes,
    estimate_device_bytes,
    estimate_disk_bytes,
    is_streamed,
)
from bench.planning.past_costs import Part, machine_of, measure_part, read_past, stage_part
from bench.planning.plan import Plan
from bench.results.record import DONE
from bench.results.store import ReadOnlyStore
from bench.system import provenance

START_S = 1.0
"""A forked process that loads a small model."""
EFFICIENCY = 0.6
"""Of the machine's matrix-product rate that a whole forward pass reaches."""


def fit_model(plan: Plan) -> CostModel:
    """To the past records of this machine, of the plan's device, number format and threads."""
    if not plan.measurements:
        return CostModel(())
    artifact = plan.measurements[0].artifact
    wanted = machine_of(provenance.machine(), artifact.device.split(":")[0], artifact.dtype, artifact.threads)
    return CostModel(past for past in read_past(plan.spec.results) if past.machine == wanted)


def describe_error(model: CostModel) -> str:
    """What the estimates of a plan go by, and how near they come."""
    if (error := model.error()) is None:
        return "times and memory are arithmetic: fewer than three artifacts were measured on this machine in this way"
    return (
        f"times and memory are fitted to {len(model.past)} artifacts measured on this machine; of those left out of the fit, "
        f"{error.share:.0%} are within a factor of {WITHIN:g} of their time, half within {error.median:.2f}"
    )


def rows(plan: Plan, model: CostModel | None = None) -> list[dict[str, Any]]:
    """A row an artifact: measurements and how many are done, tokens, seconds, memory and disk, the last three about.

    A stage that several artifacts share is counted with the first that needs it.
    """
    model = model or fit_model(plan)
    store = ReadOnlyStore(plan.spec.results, write=False) if plan.spec.results.exists() else None
    out = []
    made: set[str] = set()
    for measurements in plan.artifacts().values():
        artifact = measurements[0].artifact
        done = [m for m in measurements if store and (r := store.get(m.key)) and r.status in DONE]
        left = [m for m in measurements if m not in done]
        work = _work(left, made) if left else _Work(0, 0.0, ())
        device_bytes = estimate_device_bytes(artifact)
        ratio = 1.0 if is_streamed(artifact) else model.memory_ratio(artifact.training is not None) or 1.0
        on_device = {} if device_bytes is None else {"about_device_GB": round(device_bytes * ratio / 1e9, 1)}
        stages = sum(part.kinds[0].startswith("stage") for part in work.parts)
        seconds = _seconds(work, model, artifact.device) if left else 0.0
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
                "about_GB": round(estimate_bytes(artifact) * (1.0 if on_device else ratio) / 1e9, 1),
                **on_device,
                "about_disk_GB": round(estimate_disk_bytes(artifact, stages) / 1e9 if stages else 0.0, 1),
            }
        )
    return out


def _seconds(work: _Work, model: CostModel, device: str) -> float | None:
    """None on another device than a CPU, where no record tells."""
    fitted = model.seconds(work.parts)
    if fitted is not None:
        return START_S + fitted
    return START_S + work.operations / _flops() if device == "cpu" else None


def estimate_seconds(missing: Iterable[list[Measurement]], model: CostModel | None = None) -> dict[str, float]:
    """About how long the measurements of each artifact take, by its key: by the model where it knows all of them. Else by
    arithmetic, as if there were only a CPU: on another device only their proportions mean something."""
    made: set[str] = set()
    works = {some[0].artifact.key: _work(some, made) for some in missing}
    fitted = {key: model.seconds(work.parts) if model else None for key, work in works.items()}
    if all(seconds is not None for seconds in fitted.values()):
        return {key: START_S + (seconds or 0.0) for key, seconds in fitted.items()}
    rate = _flops()
    return {key: START_S + work.operations / rate for key, work in works.items()}


def count_operations(artifacts: Iterable[list[Measurement]]) -> float:
    """About how many multiply-adds, counted twice, all measurements of some artifacts take. The same on every machine."""
    made: set[str] = set()
    return sum(_work(measurements, made).operations for measurements in artifacts)


class _Work(NamedTuple):
    tokens: int
    operations: float
    parts: tuple[Part, ...]


def _work(measurements: list[Measurement], made: set[str]) -> _Work:
    """What measurements of one artifact take, without the stages in `made`, to which those that it goes through are added."""
    artifact = measurements[0].artifact
    parameters = count_parameters(artifact)
    parts = [measure_part(m.measure, m.config.get("task", ""), parameters, _tokens_of(m)) for m in measurements]
    tokens = passes = _evaluation_tokens(measurements)
    for count, stage in enumerate(artifact.stages, 1):
        if (key := artifact.up_to(count).key) in made:
            continue
        made.add(key)
        calibrated, trained = 0, 0
        if "calibration" in stage.needs and (calibration := artifact.calibration):
            calibrated = calibration.sequences * calibration.seqlen
            tokens += calibrated
            if artifact.device != "cpu":  # there the processes share the same cores
                calibrated //= calibration.processes
            passes += 3 * calibrated  # two over the blocks, and about one of Hessians
        if "training" in stage.needs and artifact.training:
            trained = artifact.training.tokens
            tokens += trained
            trained //= artifact.nodes if artifact.device == "cpu" else artifact.processes
            passes += 4 * trained  # forward, two backward, the teacher's
        parts.append(stage_part(stage.name, parameters, calibrated, trained))
    return _Work(tokens, 2.0 * parameters * passes, tuple(parts))


def _tokens_of(measurement: Measurement) -> int:
    if measurement.measure == "zeroshot":
        return tasks.estimate_tokens(measurement.config["task"], measurement.config["limit"])
    return _window_tokens(measurement) if "corpus" in measurement.config else 0


def _evaluation_tokens(measurements: list[Measurement]) -> int:
    """Measures of the same windows share a pass over them."""
    questions = sum(
        tasks.estimate_tokens(m.config["task"], m.config["limit"]) for m in measurements if m.measure == "zeroshot"
    )
    windows = {_window_tokens(m) for m in measurements if "corpus" in m.config}
    return questions + sum(windows)


def _window_tokens(measurement: Measurement) -> int:
    everything = corpora.lookup(measurement.config["corpus"]).tokens
    windows = measurement.config["windows"]
    return min(everything, windows * measurement.config["seqlen"]) if windows else everything


@cache
def _flops() -> float:
    """Multiply-adds a second count twice, of a float32 product of 768-square matrices, times EFFICIENCY.

    The fastest of eight: the others tell what else the machine was doing.
    """
    import numpy as np

    a = np.ones((768, 768), dtype=np.float32)
    took = []
    for _ in range(8):
        started = time.perf_counter()
        a @ a
        took.append(time.perf_counter() - started)
    return EFFICIENCY * 2 * 768**3 / min(took)
