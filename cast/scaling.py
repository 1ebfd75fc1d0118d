"""CAST's weight scaling: one learned scale per block of a row, multiplied into the weights at the
end.

arXiv 2509.25996 [s].
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import parametrize

from methods import UserError
from methods.workshop.training.trainer import bake

CHUNK = 65536
"""Weights processed at a time on a CPU, so that they stay in the cache during the three passes of
the gradients."""


class _ScaleWeight(torch.autograd.Function):
    """weight * scale, [out, blocks, in / blocks] and [out, blocks, 1], in a third of autograd's
    time."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, chunk: int) -> Tensor:
        ctx.save_for_backward(weight, scale)
        ctx.chunk = chunk
        return weight * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        weight, scale = ctx.saved_tensors
        to_weight, to_scale = torch.empty_like(weight), torch.empty_like(scale)
        rows = len(weight) if weight.is_cuda else max(1, ctx.chunk // weight[0].numel())
        product = torch.empty_like(weight[:rows])
        for part in zip(
            *(t.split(rows) for t in (gradient, weight, scale, to_weight, to_scale)), strict=True
        ):
            g, w, s, g_w, g_s = part
            torch.mul(g, s, out=g_w)
            torch.sum(torch.mul(g, w, out=product[: len(g)]), -1, keepdim=True, out=g_s)
        return to_weight, to_scale, None


class Scale(nn.Module):
    """weight[r, c] * scale[r, c // (in / blocks)]; scale [out, blocks], initially 1. Blocks are
    contiguous [i]."""

    is_on_shards = False
    """See `methods.workshop.training.rounded_rows.RowWise`."""

    def __init__(self, weight: Tensor, blocks: int, chunk: int = CHUNK) -> None:
        super().__init__()
        out, width = weight.shape
        if width % blocks:
            raise UserError(
                f"scales={blocks} does not divide a row of {width} weights into blocks: use a "
                f"divisor of {width}"
            )
        self.blocks, self.chunk = blocks, chunk
        self.scale = nn.Parameter(weight.new_ones(out, blocks))

    def forward(self, weight: Tensor) -> Tensor:
        return weight if self.is_on_shards else self.of_rows(weight, self.scale)

    def of_rows(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Return scaled rows. weight: [rows, in]; scale: [rows, blocks]."""
        scaled: Tensor = _ScaleWeight.apply(
            weight.unflatten(1, (self.blocks, -1)), scale[:, :, None], self.chunk
        )  # type: ignore[no-untyped-call]
        return scaled.flatten(1)


def add(model: nn.Module, targets: Iterable[str], blocks: int = 2) -> None:
    """Add scales to the targets. A target's unscaled weight is then
    `parametrizations.weight.original`.

    Raise UserError if `blocks` does not divide a row.
    """
    for name in targets:
        module = model.get_submodule(name)
        weight: Tensor = module.weight  # type: ignore[assignment]
        parametrize.register_parametrization(module, "weight", Scale(weight, blocks))


@torch.no_grad()
def fold(model: nn.Module, targets: Iterable[str]) -> None:
    """Multiply the scales into the weights and remove them. Zeros stay zeros."""
    names = list(targets)
    bake(model, names)
    for name in names:
        model.get_submodule(name).weight.add_(0.0)  # type: ignore[operator]  # 0 times a negative scale is -0.0
