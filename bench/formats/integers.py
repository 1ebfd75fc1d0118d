"""Integers and small floats packed into 32-bit or 8-bit words."""

from __future__ import annotations

import torch
from torch import Tensor

FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Magnitudes of the 4-bit float e2m1."""


def unpack_lanes(packed: Tensor, bits: int) -> Tensor:
    """Unpack int32 [..., words] into int32 [..., words * (32 // bits)], the lowest bits of a word first."""
    shifts = torch.arange(0, 32 // bits * bits, bits, dtype=torch.int32)
    lanes: Tensor = (packed.unsqueeze(-1) >> shifts) & (2**bits - 1)
    return lanes.flatten(-2)


def unpack_stream(packed: Tensor, bits: int) -> Tensor:
    """Unpack a stream of bits in int32 [..., words] into int32 [..., words * 32 // bits]. A value may span two words."""
    if 32 % bits == 0:
        return unpack_lanes(packed, bits)
    single = unpack_lanes(packed, 1).unflatten(-1, (-1, bits))
    shifted: Tensor = single << torch.arange(bits, dtype=torch.int32)
    return shifted.sum(-1, dtype=torch.int32)


def unpack_fp4(packed: Tensor) -> Tensor:
    """Unpack e2m1 from uint8 [..., bytes] into float32 [..., 2 * bytes], the lower half of a byte first."""
    table = torch.tensor([*FP4, *(-x for x in FP4)])
    halves = torch.stack((packed & 15, packed >> 4), -1).flatten(-2)
    return table[halves.long()]


def unpack_mask(packed: Tensor, width: int) -> Tensor:
    """Unpack bits from uint8 [rows, bytes] into bool [rows, width], the lowest bit of a byte first."""
    bits = (packed.unsqueeze(-1) >> torch.arange(8, dtype=torch.uint8)) & 1
    return bits.flatten(-2)[:, :width].bool()
