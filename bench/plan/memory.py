"""About how much memory and disk an artifact takes, from shapes alone: the same on every machine."""

from __future__ import annotations

import math

from bench.plan.artifact import Artifact
from methods.folder import Folder

LIBRARIES_BYTES = 1e9
"""A process with its libraries, before it loads anything."""
CUDA_BYTES = 3e9
"""Of main memory, what CUDA's libraries and its context take beyond that."""
STATE_BYTES = 17.0
"""A weight in training: float32 master, gradient, two moments, a mark."""
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def estimate_bytes(artifact: Artifact) -> float:
    """Of main memory. On a CPU the model twice, for the dense one is beside it while it is measured, and what a training keeps
    for each weight; beside a card the model once. Each process that shares a
    calibration has its own libraries and its own model."""
    shared = artifact.calibration.processes if artifact.calibration else 1
    if artifact.device != "cpu":
        return shared * (LIBRARIES_BYTES + CUDA_BYTES + model_bytes(artifact))
    alone = LIBRARIES_BYTES + 2.0 * model_bytes(artifact) + _state_bytes(artifact)
    return max(alone, shared * (LIBRARIES_BYTES + model_bytes(artifact)))


def estimate_device_bytes(artifact: Artifact) -> float | None:
    """Of each card; None on a CPU. The processes of a training divide its state among them."""
    if artifact.device == "cpu":
        return None
    return 2.0 * model_bytes(artifact) + _state_bytes(artifact) / artifact.processes


def estimate_disk_bytes(artifact: Artifact, stages: int) -> float:
    """In the cache: the model after each of so many stages, and a checkpoint of its training."""
    return stages * model_bytes(artifact) + _state_bytes(artifact)


def model_bytes(artifact: Artifact) -> float:
    return float(count_parameters(artifact) * ITEM_BYTES[artifact.dtype])


def count_parameters(artifact: Artifact) -> int:
    return sum(math.prod(shape) for shape in Folder(artifact.folder).shapes().values())


def _state_bytes(artifact: Artifact) -> float:
    return STATE_BYTES * count_parameters(artifact) if artifact.training else 0.0
