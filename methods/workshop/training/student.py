"""A model in training, and its teacher, in one forward pass each."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import torch
from torch import Tensor, nn

from methods.workshop.training.block_outputs import BlockOutputs
from methods.workshop.training.loss import Loss, Outputs, head_of


class Student(nn.Module):
    """A causal model with its loss in one forward pass, as sharding requires."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.outputs: BlockOutputs | None = None
        """Outputs of blocks that are compared with the teacher's."""

    def forward(
        self, ids: Tensor, teacher: Outputs | None, loss: Loss, scale: float
    ) -> tuple[Tensor, ...]:
        """Return the loss times `scale`, and sums over tokens: of its terms and, if it compares
        blocks, of these."""
        wanted = teacher.blocks if teacher else deque[Tensor]()
        compared: list[Tensor] = []

        def compare(output: Tensor) -> None:
            # taken out, so that it is freed before the next block
            compared.append(loss.of_block(output[:, :-1], wanted.popleft()[:, :-1]))

        with self.outputs.sent_to(compare) if self.outputs and wanted else nullcontext():
            states = hidden_states(self.model, ids)
        total, *sums = loss(
            Outputs(states, *head_of(self.model)), ids[:, 1:].flatten(), teacher, scale
        )
        if not compared:
            return total, *sums
        blocks = torch.stack(compared).sum()
        return total + loss.blocks_weight * scale * blocks, *sums, blocks.detach()


class FrozenTeacher(nn.Module):
    """A causal model that is not trained: the inputs of its head in one forward pass, as sharding
    requires."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.outputs: BlockOutputs | None = None

    @torch.no_grad()
    def forward(self, ids: Tensor) -> Outputs:
        blocks: deque[Tensor] = deque()
        with self.outputs.sent_to(blocks.append) if self.outputs else nullcontext():
            states = hidden_states(self.model, ids)
        return Outputs(states, *head_of(self.model), blocks)


@contextmanager
def unpacked() -> Iterator[None]:
    """Make transformers treat each row as one sequence.

    By default it checks in each forward pass whether positions restart in a row, and waits for the
    device to know. It has no setting for that. This module does not import transformers, and does
    nothing if the model is of another library.
    """
    masks, name = sys.modules.get("transformers.masking_utils"), "find_packed_sequence_indices"
    with (
        patch.object(masks, name, lambda position_ids: None)
        if hasattr(masks, name)
        else nullcontext()
    ):
        yield


def hidden_states(model: nn.Module, ids: Tensor) -> Tensor:
    """Return the inputs of the head for all tokens but the last of each sequence: [batch * (seqlen
    - 1), width]."""
    states: Tensor = model.base_model(input_ids=ids, use_cache=False)[0][:, :-1]  # type: ignore[operator]
    return states.flatten(0, 1)
