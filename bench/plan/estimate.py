"""About what a plan will cost, from shapes and one quick look at the machine. An estimate, and called one."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

from bench.inputs import corpora, tasks
from bench.plan.artifact import Measurement
from bench.plan.memory import count_parameters, estimate_bytes
from bench.plan.plan import Plan
from bench.results.record import DONE
from bench.results.store import Store
from methods.errors import UserError

START_S = 1.0
"""A forked process that loads a small model."""
EFFICIENCY = 0.6
"""Of the machine's matrix-product rate that a whole forward pass reaches."""


def rows(plan: Plan) -> list[dict[str, Any]]:
    """A row an artifact: measurements and how many are done, tokens, seconds and peak memory, the last two about.

    A stage that several artifacts share is counted with the first that needs it.
    """
    try:
        store: Store | None = Store(plan.spec.results, write=False)
    except UserError:
        store = None
    out = []
    made: set[str] = set()
    for measurements in plan.artifacts().values():
        artifact = measurements[0].artifact
        done = [c for c in measurements if store and (r := store.get(c.key)) and r.status in DONE]
        left = [c for c in measurements if c not in done]
        work = _work(left, made) if left else _Work(0, 0.0)
        rate = _flops() if artifact.device == "cpu" else None
        seconds = 0.0 if not left else START_S + work.operations / rate if rate else None
        out.append(
            {
                "model": artifact.model,
                "method": artifact.method,
                "pattern": artifact.pattern,
                "quantizer": artifact.quantizer,
                "seed": "" if artifact.seed is None else str(artifact.seed),
                "cells": len(measurements),
                "done": len(done),
                "tokens": work.tokens,
                "about_s": round(seconds) if seconds is not None else None,
                "about_GB": round(estimate_bytes(artifact) / 1e9, 1),
            }
        )
    return out


def estimate_seconds(missing: Iterable[list[Measurement]]) -> dict[str, float]:
    """About how long the measurements of each artifact take, by its key. As if there were only a CPU: on another device
    only their proportions mean something."""
    made: set[str] = set()
    rate = _flops()
    return {some[0].artifact.key: START_S + _work(some, made).operations / rate for some in missing}


def count_operations(artifacts: Iterable[list[Measurement]]) -> float:
    """About how many multiply-adds, counted twice, all measurements of some artifacts take. The same on every machine."""
    made: set[str] = set()
    return sum(_work(measurements, made).operations for measurements in artifacts)


class _Work(NamedTuple):
    tokens: int
    operations: float


def _work(measurements: list[Measurement], made: set[str]) -> _Work:
    """What measurements of one artifact take, without the stages in `made`, to which those that it goes through are added."""
    artifact = measurements[0].artifact
    tokens = passes = _evaluation_tokens(measurements)
    for count, stage in enumerate(artifact.stages, 1):
        if (key := artifact.up_to(count).key) in made:
            continue
        made.add(key)
        if "calibration" in stage.needs and (draw := artifact.calibration):
            tokens += draw.sequences * draw.seqlen
            passes += 3 * draw.sequences * draw.seqlen  # two over the blocks, and about one of Hessians
        if "training" in stage.needs and artifact.training:
            tokens += artifact.training.tokens
            passes += 4 * artifact.training.tokens  # forward, two backward, the teacher's
    return _Work(tokens, 2.0 * count_parameters(artifact) * passes)


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
