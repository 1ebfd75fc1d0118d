"""Grids that weights are rounded to. Each contains zero, so zeros stay zeros; no -0.0 is
written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from methods.contract.errors import UserError

MIN_GROUP = 8
"""The scale of a smaller group takes more bits than it saves."""


class Grid(Protocol):
    """A set of points, multiplied by one scale per group. A point is stored as a code, a whole
    number from 0."""

    kind: ClassVar[str]
    """Key of GRIDS."""

    @property
    def bits(self) -> int:
        """Bits of a code."""
        ...

    @property
    def scale_bits(self) -> int:
        """Bits of a stored scale."""
        ...

    @property
    def tensor_bits(self) -> int:
        """Bits of the tensor's own scale; 0 if the grid has none."""
        ...

    @property
    def tensor_scale(self) -> float:
        """Scale of the whole tensor; 0 if the grid has none."""
        ...

    def scale(self, groups: Tensor) -> Tensor:
        """Return the scale of each group, float [..., 1], for weights [..., group]; 1 if all are
        zero."""
        ...

    def codes(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Return the codes of the nearest points, uint8. The arguments are broadcast."""
        ...

    def points(self, codes: Tensor) -> Tensor:
        """Return the points of codes, float32, without their scale."""
        ...

    def snap(self, weight: Tensor, scale: Tensor) -> Tensor:
        """Return the nearest points times their scale, float. The arguments are broadcast."""
        ...

    def pack_scale(self, scale: Tensor) -> Tensor:
        """Return scales in their stored form, `scale_bits` each. Nothing is lost."""
        ...

    def unpack_scale(self, stored: Tensor) -> Tensor:
        """Return the inverse of `pack_scale`, float32."""
        ...

    def of(self, tensor: Tensor) -> Grid:
        """Return the grid for a whole tensor, float: with the tensor's own scale, if it has one."""
        ...


class _OfAnyTensor:
    """A grid without a scale of the whole tensor."""

    tensor_bits: ClassVar[int] = 0
    tensor_scale: ClassVar[float] = 0.0

    def of(self, tensor: Tensor) -> Any:
        return self


class _HalfScale(_OfAnyTensor):
    """A grid whose scales are in bfloat16."""

    scale_bits: ClassVar[int] = 16

    def pack_scale(self, scale: Tensor) -> Tensor:
        return scale.bfloat16()

    def unpack_scale(self, stored: Tensor) -> Tensor:
        return stored.float()


@dataclass(frozen=True)
class Integer(_HalfScale):
    """Two's complement integers without zero point. The scale is max|w| / (2^(bits-1) - 1/2), in
    bfloat16, so that neither end is clipped by more than half a step, and by up to one in int8,
    since the scale is rounded.

    The code of an integer q is q + 2^(bits-1).
    """

    kind: ClassVar[str] = "integer"
    bits: int

    @property
    def half(self) -> int:
        """Code of zero."""
        return 1 << (self.bits - 1)

    def scale(self, groups: Tensor) -> Tensor:
        return _scale(groups, self.half - 0.5)

    def _nearest(self, weight: Tensor, scale: Tensor) -> Tensor:
        return (weight / scale).round_().clamp_(-self.half, self.half - 1)

    def codes(self, weight: Tensor, scale: Tensor) -> Tensor:
        return self._nearest(weight, scale).add_(self.half).to(torch.uint8)

    def points(self, codes: Tensor) -> Tensor:
        return codes.float().sub_(self.half)

    def snap(self, weight: Tensor, scale: Tensor) -> Tensor:
        return self._nearest(weight, scale).mul_(scale)


@dataclass(frozen=True)
class Float8(_HalfScale):
    """e4m3 without infinities, largest value 448. The scale is in bfloat16."""

    kind: ClassVar[str] = "float8"
    bits: int = 8

    def scale(self, groups: Tensor) -> Tensor:
        return _scale(groups, 448)

    def codes(self, weight: Tensor, scale: Tensor) -> Tensor:
        return e4m3_codes(weight / scale)

    def points(self, codes: Tensor) -> Tensor:
        return e4m3_points(codes)

    def snap(self, weight: Tensor, scale: Tensor) -> Tensor:
        return e4m3(weight / scale).mul_(scale)


NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip
"""Quantiles of a normal distribution. Dettmers et al. 2023, arXiv 2305.14314, appendix E."""


@dataclass(frozen=True)
class NormalFloat4(_OfAnyTensor):
    """NF4 with the scale max|w| in float32, as in QLoRA without double quantization."""

    kind: ClassVar[str] = "normal"
    bits: int = 4
    scale_bits: ClassVar[int] = 32

    def scale(self, groups: Tensor) -> Tensor:
        largest = groups.abs().amax(-1, keepdim=True)
        return largest.masked_fill(largest == 0, 1)

    def _nearest(self, weight: Tensor, scale: Tensor) -> Tensor:
        points = weight.new_tensor(NF4)
        return torch.bucketize(weight / scale, (points[1:] + points[:-1]) / 2)

    def codes(self, weight: Tensor, scale: Tensor) -> Tensor:
        return self._nearest(weight, scale).to(torch.uint8)

    def points(self, codes: Tensor) -> Tensor:
        return torch.tensor(NF4, device=codes.device)[codes.int()]

    def snap(self, weight: Tensor, scale: Tensor) -> Tensor:
        return weight.new_tensor(NF4)[self._nearest(weight, scale)] * scale

    def pack_scale(self, scale: Tensor) -> Tensor:
        return scale.float()

    def unpack_scale(self, stored: Tensor) -> Tensor:
        return stored.float()


@dataclass(frozen=True)
class Microscaling(_OfAnyTensor):
    """MXFP4 (e2m1) or MXFP8 (e4m3): the scale is a power of two. OCP Microscaling Formats 1.0,
    sections 5 and 6.3.

    The exponent of the scale is that of the largest value, less the largest exponent of an element;
    elements above the largest point become that point. A group with infinity has no scale, NaN. A
    scale is stored as its exponent plus 127, and NaN as 255.
    """

    kind: ClassVar[str] = "microscaling"
    bits: int
    scale_bits: ClassVar[int] = 8

    def scale(self, groups: Tensor) -> Tensor:
        largest = groups.abs().amax(-1, keepdim=True)
        # frexp gives a fraction in [1/2, 1), so its exponent is one more than that of the standard.
        exponent = torch.frexp(largest).exponent - 1 - (2 if self.bits == 4 else 8)
        scale = torch.ldexp(torch.ones_like(largest), exponent.clamp(-127, 127)).masked_fill_(
            largest == 0, 1
        )
        return scale.masked_fill_(~largest.isfinite(), torch.nan)

    def codes(self, weight: Tensor, scale: Tensor) -> Tensor:
        return (e2m1_codes if self.bits == 4 else e4m3_codes)(weight / scale)

    def points(self, codes: Tensor) -> Tensor:
        return (e2m1_points if self.bits == 4 else e4m3_points)(codes)

    def snap(self, weight: Tensor, scale: Tensor) -> Tensor:
        return (e2m1 if self.bits == 4 else e4m3)(weight / scale).mul_(scale)

    def pack_scale(self, scale: Tensor) -> Tensor:
        exponent = torch.frexp(scale).exponent + 126
        return exponent.masked_fill(scale.isnan(), 255).to(torch.uint8)

    def unpack_scale(self, stored: Tensor) -> Tensor:
        ones = torch.ones(stored.shape, device=stored.device)
        return torch.ldexp(ones, stored.int() - 127).masked_fill_(stored == 255, torch.nan)


@dataclass(frozen=True)
class NvFloat4:
    """NVFP4: e2m1 with a scale in e4m3 for each group and one in float32 for the tensor.

    The scale of the tensor is max|w| / (6 * 448), so that the scale of the group with the largest
    weight is 448 times it. A group whose scale is rounded to zero becomes zero. NVIDIA, cuDNN 9.7
    and TensorRT 10.8 documentation of block scaling.
    """

    kind: ClassVar[str] = "nvfp4"
    bits: int = 4
    scale_bits: ClassVar[int] = 8
    tensor_bits: ClassVar[int] = 32
    tensor_scale: float = 0.0
    """Scale of the tensor; 0 to take it from the groups."""

    def of(self, tensor: Tensor) -> NvFloat4:
        # no rounding: a float32 is a float
        return replace(self, tensor_scale=float(tensor.abs().max()) / (6 * 448))

    def scale(self, groups: Tensor) -> Tensor:
        tensor_scale = self.tensor_scale or float(groups.abs().max()) / (6 * 448) or 1.0
        return e4m3(groups.abs().amax(-1, keepdim=True) / 6 / tensor_scale).mul_(tensor_scale)

    def codes(self, weight: Tensor, scale: Tensor) -> Tensor:
        return e2m1_codes(weight / scale.masked_fill(scale == 0, torch.inf))

    def points(self, codes: Tensor) -> Tensor:
        return e2m1_points(codes)

    def snap(self, weight: Tensor, scale: Tensor) -> Tensor:
        return e2m1(weight / scale.masked_fill(scale == 0, torch.inf)).mul_(scale)

    def pack_scale(self, scale: Tensor) -> Tensor:
        return e4m3_codes(scale / (self.tensor_scale or 1.0))

    def unpack_scale(self, stored: Tensor) -> Tensor:
        return e4m3_points(stored).mul_(self.tensor_scale or 1.0)


GRIDS: Mapping[str, Callable[..., Grid]] = {
    grid.kind: grid for grid in (Integer, Float8, NormalFloat4, Microscaling, NvFloat4)
}
"""Classes of grids, by the word that a stored weight has for them."""
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Magnitudes of e2m1, by code. The code of a negative number is 8 more."""


def e2m1(x: Tensor) -> Tensor:
    """Round to 0, 0.5, 1, 1.5, 2, 3, 4 or 6 with either sign, halves to the even mantissa. Larger
    values become 6."""
    size = x.abs()
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    return (x / step).round_().mul_(step).clamp_(-6, 6)


def e4m3(x: Tensor) -> Tensor:
    """Round to e4m3 without infinities, float. Larger values become 448."""
    return x.clamp(-448, 448).to(torch.float8_e4m3fn).float()  # beyond 448 a cast gives NaN


def e2m1_codes(x: Tensor) -> Tensor:
    """Return the codes of `e2m1`, uint8."""
    points = e2m1(x)
    size = points.abs()
    # FP4 has steps of a half below 2, of 1 below 4, and of 2 above
    codes = torch.where(size < 2, 2 * size, torch.where(size < 4, size + 2, size / 2 + 4))
    return codes.add_(points < 0, alpha=8).to(torch.uint8)


def e2m1_points(codes: Tensor) -> Tensor:
    """Return the numbers of e2m1 codes, float32."""
    table = torch.tensor([*FP4, *(-x for x in FP4)], device=codes.device)
    return table[codes.int()]


def e4m3_codes(x: Tensor) -> Tensor:
    """Return the codes of `e4m3`, uint8: its bits."""
    return x.clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8)


def e4m3_points(codes: Tensor) -> Tensor:
    """Return the numbers of e4m3 codes, float32."""
    return codes.view(torch.float8_e4m3fn).float()


def _scale(groups: Tensor, top: float) -> Tensor:
    scale = groups.abs().amax(-1, keepdim=True).div(top).bfloat16().float()
    return scale.masked_fill_(scale == 0, 1)


def group_size(width: int, requested: int | None, maximum: int, name: str) -> int:
    """Return the number of weights along the input that share a scale: as requested, else the
    largest power of two up to `maximum`, itself a power of two, that divides the width.

    Raises:
        UserError: the requested size does not divide the width, or no size of at least MIN_GROUP
            does.
    """
    group = requested if requested is not None else math.gcd(width, maximum)
    if group < 1 or width % group or (requested is None and group < min(MIN_GROUP, width)):
        groups = "groups" if requested else f"groups of {MIN_GROUP} or more"
        raise UserError(
            f"{name}:group={group} does not divide {width} inputs into {groups}: use a divisor of "
            f"{width}, for example {name}:group={width}"
        )
    return group


def assign_(weight: Tensor, value: Tensor) -> None:
    """Set weight to value, in weight's dtype. Zeros become +0.0."""
    weight.copy_(value)
    weight.masked_fill_(weight == 0, 0)


def round_(weight: Tensor, grid: Grid, group: int) -> None:
    """Round weight [out, in] to the nearest points of `grid`, in place."""
    # Reading a transposed view is slow.
    groups = weight.float().contiguous().unflatten(-1, (-1, group))
    grid = grid.of(groups)
    assign_(weight, grid.snap(groups, grid.scale(groups)).flatten(-2))
