"""CAST's weight scaling: learnable scales of blocks of a row, folded into the weights at the end. arXiv 2509.25996 [s]."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from methods.errors import UserError
from methods.targets import holds_in_out


class Scale(nn.Module):
    """weight[r, c] * scale[r, c // (in / blocks)]; scale [out, blocks], ones at first. Blocks are contiguous [i]."""

    def __init__(self, weight: Tensor, blocks: int, transposed: bool) -> None:
        super().__init__()
        out, width = weight.shape[::-1] if transposed else weight.shape
        if width % blocks:
            raise UserError(f"a row of {width} weights is no whole number of {blocks} blocks: take another scales")
        self.blocks, self.transposed = blocks, transposed
        self.scale = nn.Parameter(weight.new_ones(out, blocks))

    def forward(self, weight: Tensor) -> Tensor:
        if self.transposed:
            turned: Tensor = weight.unflatten(0, (self.blocks, -1)) * self.scale.T[:, None]
            return turned.flatten(0, 1)
        scaled: Tensor = weight.unflatten(1, (self.blocks, -1)) * self.scale[:, :, None]
        return scaled.flatten(1)


def add(model: nn.Module, targets: Iterable[str], blocks: int = 2) -> None:
    """Put scales on the targets. A target's own weight is then its `parametrizations.weight.original`.

    Raises:
        UserError: a row is no whole number of blocks.
    """
    for name in targets:
        module = model.get_submodule(name)
        weight: Tensor = module.weight  # type: ignore[assignment]
        parametrize.register_parametrization(module, "weight", Scale(weight, blocks, transposed=holds_in_out(module)))


@torch.no_grad()
def fold(model: nn.Module, targets: Iterable[str]) -> None:
    """Multiply the scales into the weights: the outputs stay, zeros stay zeros, and nothing is left of the scales."""
    for name in targets:
        module = model.get_submodule(name)
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
        module.weight.add_(0.0)  # type: ignore[operator]  # 0 times a negative scale is -0.0
