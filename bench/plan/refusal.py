"""Refuse what cannot fit in this machine's memory, before anything is loaded."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence

from bench.plan.artifact import Artifact, Measurement
from bench.plan.memory import LIBRARIES_BYTES, estimate_bytes, estimate_device_bytes, model_bytes
from bench.plan.plan import Plan
from bench.system.devices import memory_bytes
from methods.errors import UserError

SHARE = 0.95
"""Of a memory, that one artifact may take."""


def require_memory(plan: Plan, missing: Iterable[Sequence[Measurement]]) -> None:
    """See that each artifact that is to be made here can be, if nothing else ran. missing: measurements of each.

    The estimate is of shapes, and a lower bound where a model can be streamed.

    Raises:
        UserError: one cannot, naming what would let it.
    """
    if plan.spec.executor != "local":  # its nodes are looked at when it starts
        return
    for measurements in missing:
        if problem := find_problem(measurements[0].artifact):
            raise UserError(problem)


def find_problem(artifact: Artifact) -> str:
    """Why an artifact cannot be made on this machine, and what would let it; "" where it can be."""
    memory = SHARE * memory_bytes()
    device = _device_bytes(artifact.device)
    if artifact.device != "cpu":
        return _card_problem(artifact, SHARE * device) if device else ""
    if artifact.training and (need := estimate_bytes(artifact)) > memory:
        return (
            f"{artifact.label} takes about {_gb(need)} to train, and this machine has {_gb(memory)}: train a smaller model, "
            "or use --device cuda with --set training.processes=N, which divides it among N cards"
        )
    weights = LIBRARIES_BYTES + model_bytes(artifact)
    shared = artifact.calibration.processes if artifact.calibration else 1
    if not artifact.stream and weights <= memory < shared * weights:
        return (
            f"{artifact.label} takes at least {_gb(shared * weights)} in {shared} processes, and this machine has "
            f"{_gb(memory)}: use --set calibration.processes={int(memory / weights)}, or --set stream=true, which brings it "
            "block by block"
        )
    if not artifact.stream and weights > memory:
        halves = artifact.dtype == "float32" and LIBRARIES_BYTES + model_bytes(artifact) / 2 <= memory
        remedy = "--dtype bfloat16, or " if halves else ""
        return (
            f"{artifact.label} takes at least {_gb(weights)} in {artifact.dtype}, and this machine has {_gb(memory)}: "
            f"use {remedy}--set stream=true, which brings it block by block"
        )
    return ""


def _card_problem(artifact: Artifact, card: float) -> str:
    need = estimate_device_bytes(artifact) or 0.0
    if artifact.training and need > card:
        replicas = 2.0 * model_bytes(artifact)
        state = (need - replicas) * artifact.processes
        if replicas < card:
            remedy = f"use --set training.processes={math.ceil(state / (card - replicas))}"
        else:
            remedy = "train a smaller model, or use cards with more memory"
        return f"{artifact.label} takes about {_gb(need)} of each card to train, and one has {_gb(card)}: {remedy}"
    if not artifact.training and not artifact.stream and model_bytes(artifact) > card:
        return (
            f"{artifact.label} takes at least {_gb(model_bytes(artifact))} of a card, and it has {_gb(card)}: "
            "use --set stream=true, which brings it block by block"
        )
    return ""


def _device_bytes(device: str) -> float:
    """Memory of a card; 0 for none, or where torch, which a plan for a card has imported, does not know it."""
    torch = sys.modules.get("torch")
    if device == "cpu" or torch is None or not torch.cuda.is_available():
        return 0.0
    return float(torch.cuda.get_device_properties(device).total_memory)


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
