"""About how much memory and disk an artifact takes, from shapes alone: the same on every machine."""

from __future__ import annotations

import math

from bench.plan.artifact import Artifact
from methods.folder import Folder
from methods.targets import family_of

LIBRARIES_BYTES = 1e9
"""A process with its libraries, before it loads anything."""
CUDA_BYTES = 3e9
"""Of main memory, what CUDA's libraries and its context take beyond that."""
STATE_BYTES = 17.0
"""A weight in training: float32 master, gradient, two moments, a mark."""
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def estimate_bytes(artifact: Artifact) -> float:
    """Of main memory of one machine. On a CPU the model twice, for the dense one is beside it while it is measured, and what a
    training keeps for each weight; beside a card the model once. Each process of a training has its own libraries."""
    own = artifact.processes // artifact.nodes
    if artifact.device != "cpu":
        return own * (LIBRARIES_BYTES + CUDA_BYTES) + model_bytes(artifact)
    state = _state_bytes(artifact) / artifact.nodes + own * _gathered_bytes(artifact)
    return own * LIBRARIES_BYTES + 2.0 * model_bytes(artifact) + state


def estimate_device_bytes(artifact: Artifact, processes: int | None = None) -> float | None:
    """Of each card; None on a CPU. Of a training the more of two: what it is measured with, the model and the dense one, and
    a card's part of the training. processes: as if so many shared it."""
    if artifact.device == "cpu":
        return None
    both = 2.0 * model_bytes(artifact)
    if not artifact.training:
        return both
    shared = artifact.model_copy(update={"processes": processes or artifact.processes})
    return max(both, (model_bytes(artifact) + _state_bytes(artifact)) / shared.processes + _gathered_bytes(shared))


def _gathered_bytes(artifact: Artifact) -> float:
    """What a process that shares a training has whole: a block in use and the next one, of the student in float32 and of the
    teacher, and the teacher's embeddings and head."""
    if not artifact.training or artifact.processes == 1:
        return 0.0
    folder = Folder(artifact.folder)
    family = family_of(folder.config)
    parts: dict[int | None, int] = {None: 0}
    for name, shape in folder.shapes().items():
        block = family.block_of(name)
        parts[block] = parts.get(block, 0) + math.prod(shape)
    outside, item = parts.pop(None), ITEM_BYTES[artifact.dtype]
    return outside * item + 2.0 * max(parts.values(), default=0) * (ITEM_BYTES["float32"] + item)


def estimate_disk_bytes(artifact: Artifact, stages: int) -> float:
    """In the cache: the model after each of so many stages, and a checkpoint of its training."""
    return stages * model_bytes(artifact) + _state_bytes(artifact)


def model_bytes(artifact: Artifact) -> float:
    return float(count_parameters(artifact) * ITEM_BYTES[artifact.dtype])


def count_parameters(artifact: Artifact) -> int:
    return sum(math.prod(shape) for shape in Folder(artifact.folder).shapes().values())


def _state_bytes(artifact: Artifact) -> float:
    return STATE_BYTES * count_parameters(artifact) if artifact.training else 0.0
