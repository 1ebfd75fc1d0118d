"""Weights on integer grids, for packing: int8 with a scale per row, int4 with a scale per group of at most 128.

A quantizer returns dequantized weights. If a scale restores every weight of a group bit for bit, that scale is used.
Otherwise the group is rounded to nearest.
"""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from bench.kernels.packed24 import PackedWeight, pack, pack_integers, row_pieces
from methods.errors import UserError
from methods.quantizing.grids import Integer

BITS = {"int8": 8, "int4": 4}
SAMPLE = 64
"""Number of groups that are searched for a grid before all are."""
MAX_GROUP = 128
"""Largest number of weights that share a scale in int4."""


class RoundedWeight(NamedTuple):
    """A packed integer weight."""

    packed: PackedWeight
    exact: bool
    """True if it unpacks to the original weight, bit for bit."""


def group_size(kind: str, width: int) -> int:
    """Return the number of weights along the input that share a scale.

    A scale of int8 is for a row. A scale of int4 is for the largest power of two up to MAX_GROUP that divides the width.
    """
    return width if kind == "int8" else next(g for g in (MAX_GROUP >> i for i in range(8)) if width % g == 0)


def pack_rounded(weight: Tensor, kind: str, name: str = "weight", group: int | None = None) -> RoundedWeight:
    """Pack a 2:4 float weight [out, in] as int8 or int4. Raise UserError as `pack`, or if a weight is not finite.

    group: number of weights that share a scale; None for what the kernels take. They also take a multiple, in parts.
    """
    weight = weight.cpu()
    floats = pack(weight, name)
    if not bool(floats.values.isfinite().all()):
        raise UserError(f"{name} contains NaN or infinity, which no integer can represent: export it without --values")
    most = group_size(kind, weight.shape[1])
    integers, scales, exact = round_weight(weight, BITS[kind], math.gcd(group or most, most))
    return RoundedWeight(pack_integers(integers, floats.mask, kind, scales, weight.dtype), exact)


def round_weight(weight: Tensor, bits: int, group: int) -> tuple[Tensor, Tensor, bool]:
    """Round a float weight [out, in]: integers int8 [out, in], scales bfloat16 [out, groups], and whether nothing changed.

    group: number of weights of a row that share a scale.
    """
    rows, width = weight.shape
    integers = torch.empty(rows, width, dtype=torch.int8)
    scales = torch.empty(rows, width // group, dtype=torch.bfloat16)
    exact = True
    for at in row_pieces(rows, width):
        groups = weight[at].reshape(-1, group)
        scale, on_grid = restore_scales(groups, bits)
        exact &= on_grid
        integers[at] = _integers(groups, scale, bits).to(torch.int8).view(-1, width)
        scales[at] = scale.view(-1, width // group)
    return integers, scales, exact


def _integers(groups: Tensor, scale: Tensor, bits: int) -> Tensor:
    half = 2 ** (bits - 1)
    return (groups.float() / scale.float()).round_().clamp_(-half, half - 1)


def restore_scales(groups: Tensor, bits: int) -> tuple[Tensor, bool]:
    """Return scales, bfloat16 [groups, 1], and whether every group is on its grid.

    A group off the grid gets the scale of `Integer`.
    """
    scale = Integer(bits).scale(groups.float()).bfloat16()
    left = (~_on_grid(groups, scale, bits)).nonzero().squeeze(1)
    # A quantizer leaves every group on a grid, so that a few that are on none spare the search for all.
    few = left[:: max(1, len(left) // SAMPLE)]
    if len(few) < len(left) and len(_search(groups, scale, few, bits)) == len(few):
        return scale, False
    return scale, not len(_search(groups, scale, left, bits))


def _search(groups: Tensor, scale: Tensor, left: Tensor, bits: int) -> Tensor:
    """Write the scales of groups that are on a grid. left: their indices. Returns the indices of those that are on none."""
    largest = groups.new_zeros(len(groups), 1, dtype=torch.float32)
    largest[left] = groups[left].float().abs().amax(1, keepdim=True)
    top = 2 ** (bits - 1)
    # The scale for which the largest weight is the integer `code`, moved by `ulps` for that weight's own rounding.
    for code, ulps in product(range(top, max(0, top - 12), -1), (0, 1, -1)):
        if not len(left):
            break
        tried = ((largest[left] / code).bfloat16().view(torch.int16) + ulps).view(torch.bfloat16)
        # A group whose weights are zero, or too small for a scale. They become zero.
        tried = tried.masked_fill((tried <= 0) | ~tried.isfinite(), 1)
        hit = _on_grid(groups[left], tried, bits)
        scale[left[hit]] = tried[hit]
        left = left[~hit]
    return left


def _on_grid(groups: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Return whether rounding changes no weight of a group, bool [groups]."""
    restored = (_integers(groups, scale, bits) * scale.float()).to(groups.dtype)
    return (restored == groups).all(1)
