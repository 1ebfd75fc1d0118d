"""The forward of a model larger than its device: every batch through one block before the next block is brought."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from methods.contract import Compute, Progress
from methods.folder import Folder
from methods.pruning.walk import Flow, read_block
from methods.targets import family_of


class _Handed(nn.Module):
    """Stands in for a block, and returns what was put into it, or its input where nothing was."""

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
    """What the base model returns, from a model whose blocks are on disk: every batch through a block before the next.

    The same operations on the same batches as the model's own forward, so the same bits.

    Args:
        model: with its blocks on the meta device; source: the folder they lie in.
        tokens: int64 [sequences, seqlen]; batch: sequences per forward.

    Returns:
        Per batch [batch, seqlen, hidden], after the final norm, on the CPU.
    """
    folder, path = Folder(source), family_of(model.config.to_dict()).blocks  # type: ignore[operator, union-attr]
    blocks = model.get_submodule(path)
    assert isinstance(blocks, nn.ModuleList)
    flow = Flow(model, blocks, tokens, compute, batch)
    for i, block in enumerate(blocks):
        read_block(block, f"{path}.{i}", folder, compute)
        flow.advance(i, block)
        block.to("meta")
        progress.advance(i + 1, len(blocks))
    real = list(blocks)
    stand_ins = [_Handed(block) for block in real]
    out = []
    try:
        for i, stand_in in enumerate(stand_ins):
            blocks[i] = stand_in
        for part, hidden in zip(tokens.split(batch), flow.hidden, strict=True):
            stand_ins[-1].value = hidden.to(compute.device)
            base = model.base_model(input_ids=part.to(compute.device), use_cache=False)  # type: ignore[operator]
            out.append(base[0].cpu())
    finally:
        for i, block in enumerate(real):
            blocks[i] = block
    return out
