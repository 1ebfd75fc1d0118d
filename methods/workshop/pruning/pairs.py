"""Walk a pruned model beside the dense model that it came from, for methods that fit each block to
the dense one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from methods.contract.method import Job, Outcome
from methods.workshop.pruning.activations import batch_of, require_finite
from methods.workshop.pruning.holders import hold

Goal = Literal["dense", "own-input"]
"""The output that a pruned block should give: that of the dense block, on the dense model's inputs
or on its own."""


@dataclass
class Pair:
    """One block, its inputs after the pruned blocks before it, and the outputs it should give.

    inputs, goals: [batch, seqlen, hidden] per batch, in the job's dtype.
    """

    name: str
    """The block's name in the model."""
    block: nn.Module
    """The block of the pruned model, to be changed in place."""
    linears: dict[str, nn.Module]
    """The job's targets in it, by name."""
    inputs: list[Tensor]
    goals: list[Tensor]
    run: Callable[[Callable[..., Any], Tensor], Tensor]
    """run(block, inputs of a batch) -> its outputs, for anything that is called like the block."""
    outputs: list[Tensor] | None = None
    """The outputs of the changed block. The walk computes them if the loop has not set them."""


class PairedWalk:
    """Iterates over the blocks of a pruned model, each with its goals.

        walk = PairedWalk(model, job, goal="dense", batch=1)
        for pair in walk.pairs(): ...
        return walk.outcome(changed)

    Works for models larger than memory, as `Walk` does. Then one block of the dense model is in
    memory at a time, too.
    """

    def __init__(self, model: nn.Module, job: Job, *, goal: Goal, batch: int | None = None) -> None:
        """batch: calibration sequences per forward pass, by default as many as BATCH_TOKENS
        allows."""
        if job.calibration is None:
            raise RuntimeError("this walk runs blocks: the method's `needs` must name CALIBRATION")
        self.job, self._goal = job, goal
        self._batches = job.calibration.split(
            batch or batch_of(job.calibration, job.compute.device)
        )
        self._held = hold(model, job.source, job.compute, job.workdir / "streamed", by_expert=False)
        self.blocks = len(self._held.blocks)
        """Number of blocks."""

    @torch.no_grad()
    def pairs(self) -> Iterator[Pair]:
        """Yield the blocks, first to last."""
        job, held = self.job, self._held
        teacher = job.teacher()
        dense = hold(teacher, Path(str(teacher.name_or_path)), job.compute, by_expert=False)
        tokens = goal_tokens = held.start(self._batches, job.compute)
        if self._goal == "dense":
            goal_tokens = dense.start(self._batches, job.compute)
        with held, dense:
            origins = job.blocks or range(self.blocks)
            for i, origin in enumerate(origins):
                with held.block(i) as block:
                    # Blocks that were removed pass the dense model's tokens on.
                    for k in range(origins[i - 1] + 1 if i else 0, origin + 1):
                        with dense.block(k) as original:
                            if self._goal == "dense":
                                goals = [
                                    goal_tokens.run(k, original, hidden)
                                    for hidden in goal_tokens.hidden
                                ]
                                goal_tokens.replace(goals)
                            elif k == origin:
                                goals = [
                                    tokens.run(i, original, hidden) for hidden in tokens.hidden
                                ]
                                for goal in goals:
                                    require_finite(goal, "the outputs of a dense block")
                    linears = {
                        t: held.model.get_submodule(t)
                        for t in job.targets
                        if held.family.block_of(t) == i
                    }
                    pair = Pair(
                        held.name(i),
                        block,
                        linears,
                        list(tokens.hidden),
                        goals,
                        lambda call, hidden, i=i: tokens.run(i, call, hidden),  # type: ignore[misc]
                    )
                    yield pair
                    if pair.outputs:
                        tokens.replace(pair.outputs)
                    elif tokens.needs_output_of(i):
                        tokens.advance(i, block)

    def outcome(self, changed: frozenset[str] = frozenset(), **notes: Any) -> Outcome:
        """Return the model, the names of what changed outside the targets, and the method's
        notes."""
        return Outcome(self._held.result(), changed, notes)
