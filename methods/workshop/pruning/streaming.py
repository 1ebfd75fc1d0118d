"""The forward pass of a model larger than its device, and a copy of it on disk."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from methods.contract.method import Compute, Progress
from methods.workshop.pruning.activations import Replay, replaced
from methods.workshop.pruning.holders import hold


def write(model: nn.Module, source: Path, output: Path, compute: Compute) -> Path:
    """Write a model whose blocks are on disk to a folder, in the format `compute.stored`. Return
    the folder.

    model: with its blocks on the meta device; source: the folder with their weights.
    """
    with hold(model, source, compute, output) as held:
        for i in range(len(held.blocks)):
            for _ in held.parts(i, {}, None, None):
                pass
        held.result()
    return output


@torch.no_grad()
def last_hidden(
    model: nn.Module, source: Path, tokens: Tensor, batch: int, compute: Compute, progress: Progress
) -> list[Tensor]:
    """Return the last hidden states of a model whose blocks are on disk, per batch [batch, seqlen,
    hidden], on the CPU.

    They come after the final norm. All batches pass one block, or one expert, before the next is
    loaded. The operations on each batch are those of the model's own forward pass, so the bits are
    the same.

    Args:
        model: with its blocks on the meta device; source: the folder with their weights.
        tokens: int64 [sequences, seqlen]; batch: sequences per forward pass.
    """
    batches = tokens.split(batch)
    with hold(model, source, compute) as held:
        blocks = held.blocks
        states = held.start(batches, compute, last=True)
        for i in range(len(blocks)):
            for _ in held.parts(i, {}, states, None):
                pass
            progress.advance(i + 1, len(blocks))
    replays = {f"{i}": Replay(block) for i, block in enumerate(blocks)}
    out = []
    with replaced(blocks, replays):
        for part, hidden in zip(batches, states.hidden, strict=True):
            replays[f"{len(blocks) - 1}"].value = hidden.to(compute.device)
            base = model.base_model(input_ids=part.to(compute.device), use_cache=False)  # type: ignore[operator]
            out.append(base[0].cpu())
    return out
