"""Estimates of what a plan costs, from past records, or else from shapes and a quick timing of this
machine."""

from __future__ import annotations

import re
import time
import timeit
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

from bench.parts.forecasts.cards import Cards, enough
from bench.parts.forecasts.cost_model import WITHIN, CostModel
from bench.parts.forecasts.past_costs import machine_of, read_past, timed_parts
from bench.parts.forecasts.total import PartSeconds, describe_total, name_parts
from bench.planning.artifact import Artifact, Measurement, Plan
from bench.planning.memory import (
    estimate_bytes,
    estimate_device_bytes,
    estimate_disk_bytes,
    is_streamed,
    model_bytes,
)
from bench.planning.work import Arithmetic, Work, count_work
from bench.results.store import ReadOnlyStore
from bench.system import provenance
from bench.system.cache import is_built

IMPORT_S = 5.0
"""Seconds to import the libraries, once in a run."""
START_S = 1.0
"""Seconds to fork a worker and load a small model."""
CHECK_S = 6e-9
"""Seconds per byte of the weights, to load them and check each against the source, on a CPU."""
EFFICIENCY = 0.6
"""Speed of a forward pass relative to a large matrix product."""
BFLOAT16_SPEED = {"amx": 2.5, "avx512_bf16": 3.0}
"""Speed of a forward pass in bfloat16 relative to one in float32, by instruction set. Zen 5 has 3.0
to 3.6. Others were not measured, and count as 1."""


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


class ArtifactCost(NamedTuple):
    """Estimates of one artifact."""

    artifact: Artifact
    columns: dict[str, Any]
    """Tokens, time, memory and disk by column of `bench plan`."""
    parts: list[PartSeconds]
    """Seconds of its stages and measures. Empty if the time is unknown."""


def estimate_columns(
    plan: Plan, model: CostModel, cards: Cards | None = None
) -> list[dict[str, Any]]:
    """Return the columns of each artifact from `estimate_costs`."""
    return [cost.columns for cost in estimate_costs(plan, model, cards)]


def estimate_costs(plan: Plan, model: CostModel, cards: Cards | None = None) -> list[ArtifactCost]:
    """Estimate the cost of each artifact.

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
        work = count_work(artifact, left, made) if left else Work(0, (), ())
        seconds = _seconds(work, artifact, model, cards)
        columns: dict[str, Any] = {"tokens": work.tokens}
        parts: list[PartSeconds] = []
        if seconds is None:
            columns["about_s"] = None
        else:
            start = START_S if cards else _start_seconds(artifact)
            columns["about_s"] = round(start * bool(left) + sum(seconds))
            parts = name_parts(work, artifact, seconds)
        columns |= _memory_columns(artifact, model, cards)
        if cards:
            columns["cards_enough"] = enough(artifact, cards)
        stages = len(work.stages)
        disk = estimate_disk_bytes(artifact, stages) if stages else 0.0
        columns["about_disk_GB"] = _gigabytes(disk)
        out.append(ArtifactCost(artifact, columns, parts))
    return out


def describe_plan(costs: Sequence[ArtifactCost], jobs: int = 1) -> str:
    """Return the total time of artifacts, `jobs` at a time; "" if that of one is unknown."""
    seconds = [cost.columns["about_s"] for cost in costs]
    if None in seconds or not sum(seconds):
        return ""
    parts = [part for cost in costs for part in cost.parts]
    # An artifact cannot be divided among jobs.
    together = IMPORT_S + max(max(seconds), sum(seconds) / jobs)
    return describe_total(together, parts, 1 / jobs)


def describe_on_cards(costs: Sequence[ArtifactCost], cards: Cards) -> str:
    """Return the total time of the artifacts that fit on named cards, and the first that does
    not."""
    fitting, longest, kept, missing = [], 0.0, 0.0, ""
    for cost in costs:
        artifact, enough_cards = cost.artifact, cost.columns["cards_enough"]
        least = re.match("[0-9]+", enough_cards)
        if not least or int(least[0]) > cards.count:
            name = f"{artifact.method} on {artifact.model}"
            missing = missing or f"{name} does not fit (cards enough: {enough_cards})"
            continue
        fitting.append(cost)
        longest = max(longest, cost.columns["about_s"])
        # An artifact keeps the cards of all its processes until it ends. Artifacts run side by side
        # on the others.
        kept += cost.columns["about_s"] * artifact.most_ranks
    count = "one" if cards.count == 1 else f"{cards.count} x"
    on = f"on {count} {cards.card.name.split(',')[0]}"
    if not fitting:
        return f"no total {on}: {missing}"
    seconds = max(longest, kept / cards.count)
    parts = [part for cost in fitting for part in cost.parts]
    scale = seconds / max(1.0, sum(cost.columns["about_s"] for cost in fitting))
    text = f"{on}: {describe_total(seconds, parts, scale)}"
    if missing:
        text += f". This counts {len(fitting)} of {len(costs)} rows: {missing}"
    return text


def _memory_columns(artifact: Artifact, model: CostModel, cards: Cards | None) -> dict[str, float]:
    """Return the memory of an artifact, scaled by what past ones took of the memory that computes:
    a GPU's, or else the main memory."""
    main = estimate_bytes(artifact)
    on_device = estimate_device_bytes(artifact, memory=cards.usable_bytes if cards else None)
    ratio = 1.0
    # The estimate of a training has all that it keeps.
    if not is_streamed(artifact) and not artifact.training:
        ratio = model.memory_ratio or 1.0
    if on_device is None:
        return {"about_GB": _gigabytes(main * ratio)}
    return {"about_GB": _gigabytes(main), "about_device_GB": _gigabytes(on_device * ratio)}


def _gigabytes(amount: float) -> float:
    return round(amount / 1e9, 1)


def _seconds(
    work: Work, artifact: Artifact, model: CostModel, cards: Cards | None
) -> list[float] | None:
    """Estimate the time of an artifact's measures, then of its stages. None: it is unknown, on a
    GPU without records."""
    if cards:
        return [cards.seconds(part) for part in work.arithmetic]
    counted = [_cpu_seconds(part, artifact) for part in work.arithmetic]
    timed = [model.seconds([part]) for part in timed_parts(work, artifact)]
    pairs = [(own, count) for own, count in zip(timed, counted, strict=True) if own is not None]
    expected = sum(count for _, count in pairs)
    if not expected:
        return counted if artifact.device == "cpu" else None
    # A kind without a record takes as much longer than its arithmetic as those with one.
    pace = sum(own for own, _ in pairs) / expected
    return [pace * count if own is None else own for own, count in zip(timed, counted, strict=True)]


def estimate_seconds(missing: Sequence[list[Measurement]], model: CostModel) -> dict[str, float]:
    """Estimate the time of each artifact, by its key, without the stages in the cache.

    Without records for all artifacts of a GPU, the times are those of this machine's CPU: only
    their ratios are meaningful.
    """
    made = _built(missing)
    fitted: dict[str, float] = {}
    counted: dict[str, float] = {}
    for measurements in missing:
        artifact = measurements[0].artifact
        work, start = count_work(artifact, measurements, made), _start_seconds(artifact)
        arithmetic = sum(_cpu_seconds(part, artifact) for part in work.arithmetic)
        counted[artifact.key] = start + arithmetic
        seconds = _seconds(work, artifact, model, None)
        if seconds is not None:
            fitted[artifact.key] = start + sum(seconds)
    return fitted if len(fitted) == len(counted) else counted


def _built(artifacts: Iterable[list[Measurement]]) -> set[str]:
    """Return the names of the stages that are in the cache."""
    return {name for some in artifacts for name in some[0].artifact.cache_names if is_built(name)}


def _start_seconds(artifact: Artifact) -> float:
    """Return the time of an artifact before its first stage and between its measures."""
    return START_S + CHECK_S * model_bytes(artifact)


def _cpu_seconds(part: Arithmetic, artifact: Artifact) -> float:
    """Return the time of a part of an artifact's work on this machine's CPU."""
    forward = part.operations - part.float32
    if artifact.computed_in == "bfloat16":
        forward /= BFLOAT16_SPEED.get(provenance.instruction_set(), 1.0)
    return (forward + part.float32) / _flops(artifact.threads)


def _flops(threads: int) -> float:
    """Return this machine's floating-point operations per second in forward passes of float32."""
    return EFFICIENCY * threads * _thread_flops()


@cache
def _thread_flops() -> float:
    """Measure the floating-point operations per second of one thread in float32 products.

    Take CPU time, which other work on the machine does not lengthen, and the fastest of eight
    products. Other work still slows the memory.
    """
    import numpy as np

    a = np.ones((768, 768), dtype=np.float32)
    times = timeit.repeat(lambda: a @ a, number=1, repeat=8, timer=time.process_time)
    return 2 * 768**3 / max(min(times), 1e-6)
