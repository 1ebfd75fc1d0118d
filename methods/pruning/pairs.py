"""Walk a pruned model beside the dense model that it came from, for methods that fit each block to the dense one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from methods.contract import Job, Outcome
from methods.pruning.activations import Activations
from methods.pruning.block_reader import BlockReader, release
from methods.pruning.walk import Walk

Goal = Literal["dense", "own-input"]
"""What a pruned block should give: what the dense block gives on the dense inputs, or on the pruned block's own."""


@dataclass
class Pair:
    """One block, its inputs as the pruned blocks before it leave them, and the outputs it should give.

    inputs, goals: [batch, seqlen, hidden] per batch, in the job's dtype.
    """

    name: str
    """The block's name in the model."""
    block: nn.Module
    """Of the pruned model, to be changed in place."""
    linears: dict[str, nn.Module]
    """The job's targets in it, by name."""
    inputs: list[Tensor]
    goals: list[Tensor]
    run: Callable[[Callable[..., Any], Tensor], Tensor]
    """run(block, inputs of a batch) -> its outputs. For anything that is called as the block is."""
    outputs: list[Tensor] | None = None
    """Of the block as it was left. Computed by the walk where the loop has not set them."""


class PairedWalk(Walk):
    """Iterate over the blocks of a pruned model, each with its goals.

        walk = PairedWalk(model, job, goal="dense", batch=1)
        for pair in walk.pairs(): ...
        return walk.outcome(changed)

    Works for models larger than memory, as `Walk` does. Of the dense model one block at a time is loaded then.
    """

    def __init__(self, model: nn.Module, job: Job, *, goal: Goal, batch: int | None = None) -> None:
        """batch: calibration sequences per forward pass, by default as many as BATCH_TOKENS allows."""
        super().__init__(model, job, batch=batch)
        self._goal = goal
        self.blocks = len(model.get_submodule(self._family.blocks))  # type: ignore[arg-type]
        """Number of blocks."""

    @torch.no_grad()
    def pairs(self) -> Iterator[Pair]:
        """The blocks, first to last."""
        job, path = self.job, self._family.blocks
        if job.calibration is None:
            raise RuntimeError("this walk runs blocks: the method's `needs` must name CALIBRATION")
        dense = job.teacher()
        dense_folder = Path(str(dense.name_or_path))
        blocks, originals = self.model.get_submodule(path), dense.get_submodule(path)
        assert isinstance(blocks, nn.ModuleList) and isinstance(originals, nn.ModuleList)
        own = Activations(self.model, blocks, job.calibration, job.compute, self._batch)
        other = own
        if self._goal == "dense":
            other = Activations(dense, originals, job.calibration, job.compute, self._batch)
        with (
            BlockReader(blocks, path, job.source, job.compute) as reader,
            BlockReader(originals, path, dense_folder, job.compute) as dense_reader,
        ):
            for i, (block, original) in enumerate(zip(blocks, originals, strict=True)):
                is_streamed = reader.load(i)
                dense_is_streamed = dense_reader.load(i)
                goals = [other.run(i, original, hidden) for hidden in other.hidden]
                if dense_is_streamed:
                    release(original)
                if self._goal == "dense":
                    other.hidden = goals
                pair = Pair(
                    f"{path}.{i}",
                    block,
                    {t: self.model.get_submodule(t) for t in job.targets if self._family.block_of(t) == i},
                    list(own.hidden),
                    goals,
                    lambda call, hidden, i=i: own.run(i, call, hidden),  # type: ignore[misc]
                )
                yield pair
                if i + 1 < len(blocks):
                    own.hidden = pair.outputs or [own.run(i, block, hidden) for hidden in own.hidden]
                if is_streamed:
                    self._store(block, f"{path}.{i}")

    def outcome(self, changed: frozenset[str] = frozenset(), **notes: Any) -> Outcome:
        """The model, what changed outside the targets, and the method's notes."""
        return Outcome(super().outcome().model, changed, notes)
