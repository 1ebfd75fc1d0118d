"""Weights as whole numbers times scales, of grid codecs whose grid is "integer"."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from methods.contract.codec import Codec, StoredWeight
from methods.workshop.quantizing.grid_codec import GridCodec


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
