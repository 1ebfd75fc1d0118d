"""Refusal of artifacts that do not fit in this machine's memory, before anything is loaded."""

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
"""Fraction of memory that one artifact may use."""
MAX_CARDS = 64
"""Largest number of GPUs that an error suggests for one training."""


def require_memory(plan: Plan, missing: Iterable[Sequence[Measurement]]) -> None:
    """Check that this machine has the memory for each artifact, if nothing else runs.

    Args:
        missing: measurements to make, for each artifact.

    Raises:
        UserError: an artifact does not fit. The message says what helps.
    """
    # Another executor checks its nodes when it starts.
    if plan.spec.executor != "local":
        return
    for measurements in missing:
        if problem := find_problem(measurements[0].artifact):
            raise UserError(problem)


def find_problem(artifact: Artifact) -> str:
    """Return why an artifact does not fit on this machine and what helps, or ""."""
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
    """Return a sentence about a stage that keeps all experts of a block although the model is streamed, or ""."""
    if not (is_streamed(artifact) and is_mixture(artifact) and (stage := keeps_blocks(artifact))):
        return ""
    return f"{stage} keeps whole blocks of {artifact.model} in memory, with all their experts"


def _unit(artifact: Artifact) -> str:
    """Return the unit by which a model is streamed."""
    return "expert by expert" if is_mixture(artifact) and not keeps_blocks(artifact) else "block by block"


def _smaller(artifact: Artifact) -> str:
    """Return what takes less memory than a streamed artifact."""
    if (stage := keeps_blocks(artifact)) and is_mixture(artifact):
        return f"{stage} keeps whole blocks with all their experts, so use a method that takes experts one by one, like wanda"
    halves = "--dtype bfloat16, " if artifact.dtype == "float32" else ""
    fewer = "fewer calibration.sequences, " if artifact.calibration else ""
    return f"use {halves}{fewer}a smaller model, or a machine with more memory"


def _card_problem(artifact: Artifact, card: float) -> str:
    need = estimate_device_bytes(artifact) or 0.0
    if artifact.training and need > card:
        batch = artifact.training.batch
        # The plan refuses counts that do not divide the batch.
        counts = [n for n in range(artifact.processes + 1, MAX_CARDS + 1) if batch % n == 0]
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
    """Return the memory of a GPU, or 0 if there is none."""
    # A plan for a GPU of this machine has imported torch.
    torch = sys.modules.get("torch")
    if device == "cpu" or torch is None or not torch.cuda.is_available():
        return 0.0
    return float(torch.cuda.get_device_properties(device).total_memory)


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
