"""Weights on integer grids, for packing: int8 with a scale per row, int4 with a scale per group of
at most 128."""

from __future__ import annotations

import math

from torch import Tensor

from bench.parts.packed24.packing import PackedWeight, pack, pack_integers
from methods.contract.errors import UserError
from methods.workshop.quantizing.integers import Integers, round_integers

BITS = {"int8": 8, "int4": 4}
MAX_GROUP = 128
"""Largest number of weights that share a scale in int4."""


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
