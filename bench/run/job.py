"""What a stage may use: model, calibration, training text, prior."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil
import torch

from bench.catalog import registry
from bench.plan.artifact import Artifact
from bench.system import environments
from bench.system.cache import cache_dir
from bench.verify import Verdict
from methods.contract import Environment, Progress
from methods.folder import Folder
from methods.quantizing.stored import NOTE, Stored


class PhaseProgress(Progress, Protocol):
    """A progress that also says what is being done."""

    phase: str


@dataclass(frozen=True)
class BuiltArtifact:
    folder: Path
    verdict: Verdict
    notes: Mapping[str, Any]
    cost: Mapping[str, Any]
    changed: frozenset[str]
    """Tensors outside the targets that its stages declared changed."""


def read_stored(notes: Mapping[str, Any]) -> Stored | None:
    return Stored(**notes[NOTE]) if NOTE in notes else None


def resolve_environment(artifact: Artifact) -> Environment:
    """
    Raises:
        Skipped: it is not built.
    """
    stage = artifact.stages[-1]
    name = registry.lookup(stage.kind, stage.name).environment
    log = cache_dir() / "artifacts" / f"{artifact.key[:32]}.log"
    return Environment(name=name, python=environments.python(name), log=log)


def checkpoint_folder(artifact: Artifact) -> Path:
    """Where a training leaves what it can go on from; its artifact's key says that it is the same training."""
    return cache_dir() / "training" / artifact.key[:32]


def fits_device(folder: Folder, device: torch.device, dtype: torch.dtype) -> bool:
    """Would the model take less than four fifths of what the device has free?"""
    need = sum(math.prod(s) for s in folder.shapes().values()) * dtype.itemsize
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return need < 0.8 * free
