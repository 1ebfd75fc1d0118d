"""Refuse what cannot fit in this machine's memory, before anything is loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from bench.planning.artifact import Artifact, Measurement, Plan
from bench.planning.memory import (
    estimate_bytes,
    estimate_device_bytes,
    is_mixture,
    is_streamed,
    keeps_blocks,
    model_bytes,
    streamed_bytes,
    streamed_device_bytes,
)
from bench.system.devices import memory_bytes
from methods.contract import LIBRARY_BYTES
from methods.errors import UserError

SHARE = 0.95
"""Of a memory, that one artifact may take."""
MAX_CARDS = 64
"""That a training is advised to use."""


def require_memory(plan: Plan, missing: Iterable[Sequence[Measurement]]) -> None:
    """See that each artifact that is to be made here can be, if nothing else ran. missing: measurements of each.

    The estimate is of shapes.

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
    weights = LIBRARY_BYTES + model_bytes(artifact)
    shared = artifact.calibration_ranks
    if artifact.training:
        return ""
    if weights <= memory:
        if is_streamed(artifact) or shared * weights <= memory:
            return ""
        return (
            f"{artifact.label} takes at least {_gb(shared * weights)} in {shared} processes, and this machine has "
            f"{_gb(memory)}: use --set calibration.processes={int(memory / weights)}, or --set stream=true, which brings it "
            f"{_unit(artifact)}"
        )
    if (need := streamed_bytes(artifact)) > memory:
        return f"{artifact.label} takes about {_gb(need)} of memory streamed, and this machine has {_gb(memory)}: {_smaller(artifact)}"
    if not is_streamed(artifact):
        halves = artifact.dtype == "float32" and LIBRARY_BYTES + model_bytes(artifact) / 2 <= memory
        remedy = "--dtype bfloat16, or " if halves else ""
        return (
            f"{artifact.label} takes at least {_gb(weights)} in {artifact.dtype}, and this machine has {_gb(memory)}: "
            f"use {remedy}--set stream=true, which brings it {_unit(artifact)}"
        )
    return ""


def describe_whole_blocks(artifact: Artifact) -> str:
    """What a plan says of a stage that keeps all experts of a block in memory though the model is streamed; "" for none."""
    if not (is_streamed(artifact) and is_mixture(artifact) and (stage := keeps_blocks(artifact))):
        return ""
    return f"{stage} keeps whole blocks of {artifact.model} in memory, with all their experts"


def _unit(artifact: Artifact) -> str:
    """How a model is streamed, in words."""
    return "expert by expert" if is_mixture(artifact) and not keeps_blocks(artifact) else "block by block"


def _smaller(artifact: Artifact) -> str:
    """What takes less than an artifact that is streamed."""
    if (stage := keeps_blocks(artifact)) and is_mixture(artifact):
        return f"{stage} keeps whole blocks with all their experts, so use a method that takes experts one by one, like wanda"
    halves = "--dtype bfloat16, " if artifact.dtype == "float32" else ""
    fewer = "fewer calibration.sequences, " if artifact.calibration else ""
    return f"use {halves}{fewer}a smaller model, or a machine with more memory"


def _card_problem(artifact: Artifact, card: float) -> str:
    need = estimate_device_bytes(artifact) or 0.0
    if artifact.training and need > card:
        batch = artifact.training.batch
        counts = [n for n in range(artifact.processes + 1, MAX_CARDS + 1) if batch % n == 0]  # others would be refused
        enough = next((n for n in counts if (estimate_device_bytes(artifact, n) or 0.0) <= card), None)
        remedy = (
            f"use --set training.processes={enough}"
            if enough
            else "train a smaller model, or use cards with more memory"
        )
        return f"{artifact.label} takes about {_gb(need)} of each card to train, and one has {_gb(card)}: {remedy}"
    if artifact.training or model_bytes(artifact) <= card:
        return ""
    if (need := streamed_device_bytes(artifact)) > card:
        return (
            f"{artifact.label} takes about {_gb(need)} of a card streamed, and it has {_gb(card)}: {_smaller(artifact)}"
        )
    if not is_streamed(artifact):
        return (
            f"{artifact.label} takes at least {_gb(model_bytes(artifact))} of a card, and it has {_gb(card)}: "
            f"use --set stream=true, which brings it {_unit(artifact)}"
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
