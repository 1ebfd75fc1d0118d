"""Refusal of artifacts that do not fit in this machine's memory, before anything is loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from bench.catalog.entries import LOCAL
from bench.planning.artifact import Artifact, Measurement, Plan
from bench.planning.memory import (
    estimate_bytes,
    estimate_device_bytes,
    is_streamed,
    keeps_blocks,
    model_bytes,
    streamed_bytes,
    streamed_device_bytes,
    with_recompute,
)
from bench.system.devices import memory_bytes
from methods.contract import rules
from methods.contract.errors import UserError
from methods.contract.method import LIBRARY_BYTES

SHARE = 0.95
"""Fraction of memory that one artifact may use."""
MAX_GPUS = 64
"""Largest number of GPUs that an error suggests for one training."""


def require_memory(plan: Plan, missing: Iterable[Sequence[Measurement]]) -> None:
    """Refuse an artifact that needs more than this machine's memory, and say what helps. missing:
    measurements to make."""
    if plan.spec.executor != LOCAL:  # it checks its nodes when it starts
        return
    for measurements in missing:
        problem = find_problem(measurements[0].artifact)
        if problem:
            raise UserError(problem)


def find_problem(artifact: Artifact) -> str:
    """Return why an artifact does not fit on this machine and what helps, or ""."""
    on_gpu = artifact.device != "cpu"
    if on_gpu:
        memory = SHARE * _gpu_bytes(artifact.device)
        has = f"and a GPU has {_gb(memory)}"
    else:
        memory = SHARE * memory_bytes()
        has = f"and this machine has {_gb(memory)}"
    if not memory:
        return ""
    own = artifact.ranks_per_node
    if on_gpu and 0 < (cards := _gpu_count()) < own:
        trains = artifact.processes // artifact.nodes > cards
        batch = artifact.training.batch if artifact.training else 1
        fits = (n for n in range(cards * artifact.nodes, 0, -artifact.nodes) if batch % n == 0)
        use = f"training.processes={next(fits, 1)}" if trains else f"calibration.processes={cards}"
        return f"{artifact.label} takes {own} GPUs, and this machine has {cards}: use --set {use}"
    if artifact.training:
        need = estimate_device_bytes(artifact, memory=memory) or estimate_bytes(artifact)
        of = "of each GPU " if on_gpu else ""
        if need <= memory:
            return ""
        return (
            f"{artifact.label} takes about {_gb(need)} {of}to train, {has}: "
            f"{_divide(artifact, memory)}"
        )
    processes = 1 if on_gpu else artifact.calibration_ranks
    weights = model_bytes(artifact)
    if not on_gpu:
        weights += LIBRARY_BYTES
    if artifact.sizes.expert and not keeps_blocks(artifact):
        unit = "expert by expert"
    else:
        unit = "block by block"
    streaming = f"--set stream=true, which brings it {unit}"
    if weights <= memory:
        if is_streamed(artifact) or processes * weights <= memory:
            return ""
        fewer = f"--set calibration.processes={int(memory / weights)}"
        return (
            f"{artifact.label} takes at least {_gb(processes * weights)} in {processes} "
            f"processes, {has}: use {fewer}, or {streaming}"
        )
    need = streamed_device_bytes(artifact) if on_gpu else streamed_bytes(artifact)
    if need > memory:
        return f"{artifact.label} takes about {_gb(need)} streamed, {has}: {_reduce(artifact)}"
    if is_streamed(artifact):
        return ""
    halves = artifact.computed_in == "float32" and weights - model_bytes(artifact) / 2 <= memory
    remedy = f"--dtype bfloat16, or {streaming}" if halves else streaming
    return (
        f"{artifact.label} takes at least {_gb(weights)} in {artifact.computed_in}, {has}: use "
        f"{remedy}"
    )


def describe_whole_blocks(artifact: Artifact) -> str:
    """Return a sentence about a stage that keeps all experts of a block although the model is
    streamed, or ""."""
    if not (is_streamed(artifact) and artifact.sizes.expert and (stage := keeps_blocks(artifact))):
        return ""
    return f"{stage} keeps whole blocks of {artifact.model} in memory, with all their experts"


def _reduce(artifact: Artifact) -> str:
    """Return what takes less memory than a streamed artifact."""
    stage = keeps_blocks(artifact)
    if stage and artifact.sizes.expert:
        return (
            f"{stage} keeps whole blocks with all their experts, so use a method that takes "
            f"experts one by one, like {rules.PRUNER}"
        )
    halves = "--dtype bfloat16, " if artifact.computed_in == "float32" else ""
    fewer = "fewer calibration.sequences, " if artifact.calibration else ""
    return f"use {halves}{fewer}a smaller model, or a machine with more memory"


def _divide(artifact: Artifact, memory: float) -> str:
    """Return how a training fits: with activations that are recomputed, or on more GPUs."""
    if artifact.device == "cpu":
        return (
            "train a smaller model, or use --device cuda with --set training.processes=N, which "
            "divides it among N GPUs"
        )
    if (estimate_device_bytes(with_recompute(artifact), memory=memory) or 0.0) <= memory:
        return f"use {artifact.pruner.label}:recompute=true"
    batch = artifact.training.batch if artifact.training else 1
    # The plan refuses counts that do not divide the batch.
    for count in range(artifact.processes + 1, MAX_GPUS + 1):
        need = estimate_device_bytes(artifact, count, memory) or 0.0
        if batch % count == 0 and need <= memory:
            return f"use --set training.processes={count}"
    return "train a smaller model, or use GPUs with more memory"


def _gpu_bytes(device: str) -> float:
    """Return the memory of a GPU, or 0 if there is none."""
    # A plan for a GPU of this machine has imported torch.
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        return float(torch.cuda.get_device_properties(device).total_memory)
    return 0.0


def _gpu_count() -> int:
    return torch.cuda.device_count() if (torch := sys.modules.get("torch")) else 0


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
