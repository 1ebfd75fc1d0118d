"""Grids that weights are rounded to. Each holds zero, so what is zero stays zero, and no -0.0 is left behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from methods.errors import UserError

LEAST_GROUP = 8
"""Of a smaller group the scale takes more room than it saves."""


class Grid(Protocol):
    """A set of points, stretched by one scale a group."""

    @property
    def bits(self) -> int:
        """Of one value."""
        ...

    @property
    def scale_bits(self) -> int: ...

    def scale(self, groups: Tensor) -> Tensor:
        """Float [..., 1] for weights [..., group]; 1 where all are zero."""
        ...

    def snap(self, weight: Tensor, scale: Tensor) -> Tensor:
        """The nearest points, float; the two broadcast."""
        ...


@dataclass(frozen=True)
class Integer:
    """Two's complement, zero point 0: scale max|w| / (2^(bits-1) - 1/2), so that neither end is clipped by more than half
    a step. The scale is kept in bfloat16."""

    bits: int
    scale_bits: ClassVar[int] = 16

    def scale(self, groups: Tensor) -> Tensor:
        return _scale(groups, 2 ** (self.bits - 1) - 0.5)

    def snap(self, weight: Tensor, scale: Tensor) -> Tensor:
        half = 2 ** (self.bits - 1)
        return (weight / scale).round_().clamp_(-half, half - 1).mul_(scale)


@dataclass(frozen=True)
class Float8:
    """e4m3 without infinities, largest 448. The scale is kept in bfloat16."""

    bits: ClassVar[int] = 8
    scale_bits: ClassVar[int] = 16

    def scale(self, groups: Tensor) -> Tensor:
        return _scale(groups, 448)

    def snap(self, weight: Tensor, scale: Tensor) -> Tensor:
        inside = (weight / scale).clamp_(-448, 448)  # beyond it the conversion gives NaN
        return inside.to(torch.float8_e4m3fn).float().mul_(scale)


NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""Quantiles of a normal distribution. Dettmers et al. 2023, arXiv 2305.14314, appendix E."""


@dataclass(frozen=True)
class NormalFloat4:
    """NF4 times max|w|, which stays float32 as QLoRA keeps it without double quantization."""

    bits: ClassVar[int] = 4
    scale_bits: ClassVar[int] = 32

    def scale(self, groups: Tensor) -> Tensor:
        largest = groups.abs().amax(-1, keepdim=True)
        return largest.masked_fill(largest == 0, 1)

    def snap(self, weight: Tensor, scale: Tensor) -> Tensor:
        points = weight.new_tensor(NF4)
        return points[torch.bucketize(weight / scale, (points[1:] + points[:-1]) / 2)] * scale


def _scale(groups: Tensor, top: float) -> Tensor:
    scale = groups.abs().amax(-1, keepdim=True).div(top).bfloat16().float()
    return scale.masked_fill_(scale == 0, 1)


def group_of(width: int, asked: int | None, most: int, name: str) -> int:
    """Weights along the input that share a scale: those asked for, else the largest power of two up to `most` that
    divides the width.

    Raises:
        UserError: what was asked for does not divide it, or nothing worth a scale does.
    """
    group = asked if asked is not None else next(g for g in _halves(most) if width % g == 0)
    if group < 1 or width % group or (asked is None and group < min(LEAST_GROUP, width)):
        raise UserError(
            f"{name}:group={group} cannot cut {width} inputs into whole groups{'' if asked else ' worth a scale'}: "
            f"take a group that divides {width}, such as {name}:group={width}"
        )
    return group


def _halves(most: int) -> list[int]:
    """most, most/2, ... 1; most is a power of two."""
    return [most >> i for i in range(most.bit_length())]


def put(weight: Tensor, value: Tensor) -> None:
    """weight[...] = value, in weight's dtype. What becomes zero there becomes +0.0."""
    weight.copy_(value)
    weight.masked_fill_(weight == 0, 0)


def round_(weight: Tensor, grid: Grid, group: int) -> int:
    """Round weight [out, in] to the nearest points of `grid`, in place; returns how many scales that took."""
    groups = weight.float().contiguous().unflatten(-1, (-1, group))  # a transposed view reads slowly
    scale = grid.scale(groups)
    put(weight, grid.snap(groups, scale).flatten(-2))
    return scale.numel()
