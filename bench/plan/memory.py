"""About how much memory an artifact takes, from shapes alone: the same on every machine."""

from __future__ import annotations

import math

from bench.plan.artifact import Artifact
from methods.folder import Folder

LIBRARIES_BYTES = 1e9
"""A process with its libraries, before it loads anything."""
STATE_BYTES = 17.0
"""A weight in training: float32 master, gradient, two moments, a mark."""
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def estimate_bytes(artifact: Artifact) -> float:
    """The model twice, for the dense one is beside it while it is measured, and what a training keeps for each weight."""
    parameters = count_parameters(artifact)
    state = STATE_BYTES * parameters if artifact.training else 0.0
    return LIBRARIES_BYTES + 2.0 * parameters * ITEM_BYTES[artifact.dtype] + state


def count_parameters(artifact: Artifact) -> int:
    return sum(math.prod(shape) for shape in Folder(artifact.folder).shapes().values())
