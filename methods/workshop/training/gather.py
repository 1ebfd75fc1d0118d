"""Write a sharded model to a folder, one block at a time, so that no process holds it whole."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from methods.model import low_rank_adapter
from methods.model.folder import Writer
from methods.model.targets import family_of
from methods.model.terms import terms_of
from methods.workshop.training.process_group import full_tensor, rank_and_world

SHARD_BYTES = 2**28
"""Bytes of a shard, which is in memory until it is complete."""

Finish = Callable[[nn.Module, Sequence[str]], None]
"""finish(model, targets): the last change to these targets' weights. Other blocks may have no
weights then."""


class Skeleton:
    """A model without its weights, which receives, finishes and writes the weights of one block
    after the other."""

    def __init__(self, model: nn.Module) -> None:
        self._model = copy.deepcopy(
            model, {id(t): _empty(t) for t in (*model.parameters(), *model.buffers())}
        )

    @torch.no_grad()
    def write(
        self,
        model: nn.Module,
        folder: Path,
        dtype: torch.dtype,
        targets: Sequence[str],
        finish: Finish | None,
    ) -> Path:
        """Write the weights of `model`, which is sharded, in `dtype`. Every rank must call it; the
        first one writes."""
        is_first = rank_and_world()[0] == 0
        if is_first:
            shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was interrupted
        writer = Writer(folder, SHARD_BYTES, dtype) if is_first else None
        family = family_of(model.config.to_dict())  # type: ignore[operator, union-attr]
        for index in range(len(model.get_submodule(family.blocks))):  # type: ignore[arg-type]
            prefix = f"{family.blocks}.{index}"
            self._bring(model, prefix, is_first)
            if writer is None:
                continue
            if finish:
                finish(self._model, [t for t in targets if family.block_of(t) == index])
            block = self._model.get_submodule(prefix)
            tensors = {f"{prefix}.{n}": t for n, t in block.state_dict().items()}
            writer.add_folded(tensors, tensors.__getitem__, family)
            block.to("meta")
        persistent = self._model.state_dict().keys()
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if family.block_of(name) is None and name in persistent:
                full = full_tensor(tensor.detach())
                if writer:
                    writer.add(name, full)
        if writer is None:
            return folder
        written = writer.close()
        terms = terms_of(self._model, dtype)
        if terms:
            low_rank_adapter.write(folder, terms, family.transposed)
        return written

    def _bring(self, model: nn.Module, prefix: str, is_first: bool) -> None:
        """Gather a block's tensors. The first rank keeps them, on the CPU."""
        source, block = model.get_submodule(prefix), self._model.get_submodule(prefix)
        for name, tensor in (*source.named_parameters(), *source.named_buffers()):
            full = full_tensor(tensor.detach())
            if is_first:
                owner, _, leaf = name.rpartition(".")
                is_parameter = isinstance(tensor, nn.Parameter)
                setattr(
                    block.get_submodule(owner),
                    leaf,
                    nn.Parameter(full.cpu(), False) if is_parameter else full.cpu(),
                )


def _empty(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=False)
    return empty
