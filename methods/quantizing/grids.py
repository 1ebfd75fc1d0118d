"""Grids that weights are rounded to. Each contains zero, so zeros stay zeros; no -0.0 is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from methods.errors import UserError

MIN_GROUP = 8
"""The scale of a smaller group takes more bits than it saves."""


class Grid(Protocol):
    """A set of points, multiplied by one scale per group."""

    @property
    def bits(self) -> int:
        """Bits of one value."""
        ...

    @property
    def scale_bits(self) -> int: ...

    def scale(self, groups: Tensor) -> Tensor:
        """Return the scale of each group, float [..., 1], for weights [..., group]; 1 if all are zero."""
        ...

    def snap(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Return the nearest points, float. The arguments are broadcast."""
        ...


@dataclass(frozen=True)
class Integer:
    """Two's complement integers without zero point. The scale is max|w| / (2^(bits-1) - 1/2), in bfloat16, so that
    neither end is clipped by more than half a step, and by up to one in int8, since the scale is rounded."""

    bits: int
    scale_bits: ClassVar[int] = 16

    def scale(self, groups: Tensor) -> Tensor:
        return _scale(groups, 2 ** (self.bits - 1) - 0.5)

    def snap(self, weight: Tensor, scale: Tensor) -> Tensor:
        half = 2 ** (self.bits - 1)
        return (weight / scale).round_().clamp_(-half, half - 1).mul_(scale)


@dataclass(frozen=True)
class Float8:
    """e4m3 without infinities, largest value 448. The scale is in bfloat16."""

    bits: ClassVar[int] = 8
    scale_bits: ClassVar[int] = 16

    def scale(self, groups: Tensor) -> Tensor:
        return _scale(groups, 448)

    def snap(self, weight: Tensor, scale: Tensor) -> Tensor:
        inside = (weight / scale).clamp_(-448, 448)  # larger values would become NaN
        return inside.to(torch.float8_e4m3fn).float().mul_(scale)


NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""Quantiles of a normal distribution. Dettmers et al. 2023, arXiv 2305.14314, appendix E."""


@dataclass(frozen=True)
class NormalFloat4:
    """NF4 with the scale max|w| in float32, as in QLoRA without double quantization."""

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


def group_size(width: int, requested: int | None, maximum: int, name: str) -> int:
    """Return the number of weights along the input that share a scale: as requested, else the largest power of two up
    to `maximum` that divides the width.

    Raises:
        UserError: the requested size does not divide the width, or no size of at least MIN_GROUP does.
    """
    group = requested if requested is not None else next(g for g in _powers_of_two(maximum) if width % g == 0)
    if group < 1 or width % group or (requested is None and group < min(MIN_GROUP, width)):
        raise UserError(
            f"{name}:group={group} does not divide {width} inputs into groups{'' if requested else f' of {MIN_GROUP} or more'}: "
            f"use a divisor of {width}, for example {name}:group={width}"
        )
    return group


def _powers_of_two(maximum: int) -> list[int]:
    """Return maximum, maximum/2, ... 1, for a maximum that is a power of two."""
    return [maximum >> i for i in range(maximum.bit_length())]


def assign_(weight: Tensor, value: Tensor) -> None:
    """Set weight to value, in weight's dtype. Zeros become +0.0."""
    weight.copy_(value)
    weight.masked_fill_(weight == 0, 0)


def round_(weight: Tensor, grid: Grid, group: int) -> int:
    """Round weight [out, in] to the nearest points of `grid`, in place. Return the number of scales."""
    groups = weight.float().contiguous().unflatten(-1, (-1, group))  # reading a transposed view is slow
    scale = grid.scale(groups)
    assign_(weight, grid.snap(groups, scale).flatten(-2))
    return scale.numel()
