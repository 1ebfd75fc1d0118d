"""About what a plan will cost, from shapes and one quick look at the machine. An estimate, and called one."""

from __future__ import annotations

import math
import time
from functools import cache
from typing import Any

from bench.inputs import corpora, tasks
from bench.plan.artifact import Artifact, Measurement
from bench.plan.plan import Plan
from bench.results.record import DONE
from bench.results.store import Store
from methods.errors import UserError
from methods.folder import Folder

START_S = 1.0
"""A forked process that loads a small model."""
EFFICIENCY = 0.6
"""Of the machine's matrix-product rate that a whole forward pass reaches."""
STATE_BYTES = 17.0
"""A weight in training: float32 master, gradient, two moments, a mark."""
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def rows(plan: Plan) -> list[dict[str, Any]]:
    """A row an artifact: measurements and how many are done, tokens, seconds and peak memory, the last two about."""
    try:
        store: Store | None = Store(plan.spec.results, write=False)
    except UserError:
        store = None
    out = []
    for measurements in plan.artifacts().values():
        artifact = measurements[0].artifact
        done = [c for c in measurements if store and (r := store.get(c.key)) and r.status in DONE]
        left = [c for c in measurements if c not in done]
        tokens, seconds, memory = _cost(artifact, left)
        out.append(
            {
                "model": artifact.model,
                "method": artifact.method,
                "pattern": artifact.pattern,
                "quantizer": artifact.quantizer,
                "seed": "" if artifact.seed is None else str(artifact.seed),
                "cells": len(measurements),
                "done": len(done),
                "tokens": tokens,
                "about_s": round(seconds) if seconds is not None else None,
                "about_GB": round(memory / 1e9, 1),
            }
        )
    return out


def estimate_seconds(measurements: list[Measurement]) -> float:
    """About how long these measurements of one artifact take. 1 where the machine's speed is unknown (not a CPU)."""
    _, seconds, _ = _cost(measurements[0].artifact, measurements)
    return 1.0 if seconds is None else seconds


def _cost(artifact: Artifact, left: list[Measurement]) -> tuple[int, float | None, float]:
    shapes = Folder(artifact.folder).shapes()
    parameters = sum(math.prod(s) for s in shapes.values())
    draw = artifact.calibration
    calibration = draw.sequences * draw.seqlen if draw and left else 0
    training = artifact.training.tokens if artifact.training and left else 0
    evaluation = _evaluation_tokens(left)
    memory = 1e9 + 2.0 * parameters * ITEM_BYTES[artifact.dtype]
    if training:
        memory += STATE_BYTES * parameters
    rate = _flops() if artifact.device == "cpu" else None
    tokens = calibration + evaluation + training
    if rate is None or not left:
        return tokens, None if left else 0.0, memory
    passes = evaluation + 3 * calibration + 4 * training  # calibration: two over the blocks, and about one of Hessians;
    return tokens, START_S + 2.0 * parameters * passes / rate, memory  # training: forward, two backward, the teacher's


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
