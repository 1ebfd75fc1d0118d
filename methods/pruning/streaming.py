"""The forward pass of a model larger than its device: all batches go through one block, or one expert, before the next is
loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from methods.contract import Compute, Progress
from methods.pruning import expert_pass
from methods.pruning.activations import Activations
from methods.pruning.block_reader import BlockReader, brings_experts, release
from methods.targets import family_of


class _Replay(nn.Module):
    """Replaces a block: returns `value`, or its input if that is None."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.attention_type = getattr(block, "attention_type", None)  # some models pick the mask by it
        self.value: Tensor | None = None

    def forward(self, hidden: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        return hidden if self.value is None else self.value


@torch.no_grad()
def last_hidden(
    model: nn.Module, source: Path, tokens: Tensor, batch: int, compute: Compute, progress: Progress
) -> list[Tensor]:
    """The last hidden states of a model whose blocks are on disk.

    The same operations on the same batches as the model's own forward pass, so the same bits.

    Args:
        model: with its blocks on the meta device; source: the folder with their weights.
        tokens: int64 [sequences, seqlen]; batch: sequences per forward pass.

    Returns:
        Per batch [batch, seqlen, hidden], after the final norm, on the CPU.
    """
    path = family_of(model.config.to_dict()).blocks  # type: ignore[operator, union-attr]
    blocks = model.get_submodule(path)
    assert isinstance(blocks, nn.ModuleList)
    activations = Activations(model, blocks, tokens, compute, batch, by_expert=brings_experts(blocks))
    with BlockReader(blocks, path, source, compute, by_expert=True) as reader:
        for i, block in enumerate(blocks):
            reader.load(i)
            if reader.has_experts(i):
                expert_pass.advance(activations, i, block, reader.experts(i))
            else:
                activations.advance(i, block)
            release(block)
            progress.advance(i + 1, len(blocks))
    originals = list(blocks)
    replays = [_Replay(block) for block in originals]
    out = []
    try:
        for i, replay in enumerate(replays):
            blocks[i] = replay
        for part, hidden in zip(tokens.split(batch), activations.hidden, strict=True):
            replays[-1].value = hidden.to(compute.device)
            base = model.base_model(input_ids=part.to(compute.device), use_cache=False)  # type: ignore[operator]
            out.append(base[0].cpu())
    finally:
        for i, block in enumerate(originals):
            blocks[i] = block
    return out
