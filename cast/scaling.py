"""CAST's weight scaling: learnable scales of blocks of a row, folded into the weights at the end. arXiv 2509.25996 [s]."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrize

from methods.errors import UserError
from methods.targets import holds_in_out

CHUNK = 65536
"""Weights handled at a time on a CPU: the three passes of the gradients then find them in its cache."""


class _Scaled(torch.autograd.Function):
    """weight * scale, [out, blocks, in / blocks] and [out, blocks, 1]: as autograd has it, at a third of its time."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return weight * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        weight, scale = ctx.saved_tensors
        to_weight, to_scale = torch.empty_like(weight), torch.empty_like(scale)
        rows = len(weight) if weight.is_cuda else max(1, CHUNK // weight[0].numel())
        product = torch.empty_like(weight[:rows])
        for part in zip(*(t.split(rows) for t in (gradient, weight, scale, to_weight, to_scale)), strict=True):
            g, w, s, g_w, g_s = part
            torch.mul(g, s, out=g_w)
            torch.sum(torch.mul(g, w, out=product[: len(g)]), -1, keepdim=True, out=g_s)
        return to_weight, to_scale


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
        scaled: Tensor = _Scaled.apply(weight.unflatten(1, (self.blocks, -1)), self.scale[:, :, None])  # type: ignore[no-untyped-call]
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
