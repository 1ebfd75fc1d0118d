"""Weights on integer grids, for packing: int8 with a scale per row, int4 with a scale per group of
at most 128."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from bench.kernels.packed24 import PackedWeight, pack, pack_integers
from methods.contract.codec import Codec, StoredWeight
from methods.contract.errors import UserError
from methods.workshop.quantizing.grid_codec import GridCodec

BITS = {"int8": 8, "int4": 4}
MAX_GROUP = 128
"""Largest number of weights that share a scale in int4."""


class Integers(NamedTuple):
    """A weight as whole numbers times scales."""

    codes: Tensor
    """Two's complement integers, int8 [out, in]."""
    scales: Tensor
    """Scale of each group along the input, bfloat16 [out, groups]."""
    bits: int

    @property
    def group(self) -> int:
        """Number of weights along the input that share a scale."""
        return self.codes.shape[1] // self.scales.shape[1]

    def split(self, group: int) -> Integers:
        """Return the same weight with a scale for `group` weights, which must divide the present
        number."""
        return self._replace(scales=self.scales.repeat_interleave(self.group // group, 1))

    def decode(self) -> Tensor:
        """Return the weight, float32 [out, in]."""
        groups = self.codes.unflatten(1, (self.scales.shape[1], -1)).float()
        weight: Tensor = (groups * self.scales.float().unsqueeze(-1)).flatten(1)
        return weight


def integer_bits(codec: Codec) -> int:
    """Return the bits of a codec's integers; 0 for a codec of anything else."""
    return codec.width if isinstance(codec, GridCodec) and codec.grid == "integer" else 0


def integers_of(stored: StoredWeight) -> Integers:
    """Return the integers of a stored weight, whose codec has `integer_bits`."""
    bits = integer_bits(stored.codec)
    assert bits, f"{stored.codec} has no integers"
    codes: Tensor = (stored.parts["codes"].short() - 2 ** (bits - 1)).to(torch.int8)
    return Integers(codes, stored.parts["scales"], bits)


def round_integers(weight: Tensor, bits: int, group: int) -> Integers:
    """Round a float weight [out, in] to the nearest integers, with a scale for `group` weights
    along the input."""
    codec = GridCodec("integer", bits, group)
    return integers_of(StoredWeight(codec, codec.encode(weight)))


def group_size(kind: str, width: int) -> int:
    """Return the number of weights along the input that share a scale.

    A scale of int8 is for a row. A scale of int4 is for the largest power of two up to MAX_GROUP
    that divides the width.
    """
    return width if kind == "int8" else math.gcd(width, MAX_GROUP)


def pack_rounded(weight: Tensor, kind: str, name: str = "weight") -> PackedWeight:
    """Round a 2:4 float weight [out, in] to int8 or int4, and pack it. Raise UserError as `pack`,
    or if it is not finite."""
    weight = weight.cpu()
    if not bool(weight.isfinite().all()):
        raise UserError(
            f"{name} contains NaN or infinity, which no integer can represent: export it without "
            "--values"
        )
    return pack_codes(
        weight, round_integers(weight, BITS[kind], group_size(kind, weight.shape[1])), name
    )


def pack_codes(weight: Tensor, integers: Integers, name: str = "weight") -> PackedWeight:
    """Pack the integers of a 2:4 weight [out, in]. Raise UserError as `pack`."""
    kind = f"int{integers.bits}"
    group = math.gcd(integers.group, group_size(kind, weight.shape[1]))
    mask = pack(weight, name).mask
    return pack_integers(integers.codes, mask, kind, integers.split(group).scales, weight.dtype)
