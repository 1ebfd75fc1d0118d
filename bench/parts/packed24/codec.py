"""The codec of packed 2:4 weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.parts.packed24.integers24 import pack_rounded
from bench.parts.packed24.packing import PackedWeight, check_mask, pack, unpack
from methods.model.folder import dtype_name


@dataclass(frozen=True)
class Packed24Codec:
    """Two kept values of every four, and a mask. The parts are those of `PackedWeight`."""

    name: ClassVar[str] = "packed24"
    bits: ClassVar[Mapping[str, int]] = {}
    kind: str
    """Kind of the values: float, int8 or int4."""
    width: int
    """Input size."""
    dtype: str
    """Dtype of the weight."""

    @classmethod
    def of(cls, packed: PackedWeight) -> Packed24Codec:
        """Return the codec of a packed weight."""
        return cls(packed.kind, packed.width, dtype_name(packed.dtype))

    def __str__(self) -> str:
        return f"packed24 of {self.kind} values"

    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        """Return the parts of a 2:4 weight [out, in], rounded to the kind of the values. Raise
        UserError as `pack` and `pack_rounded`."""
        weight = weight.to(getattr(torch, self.dtype))
        packed = pack(weight) if self.kind == "float" else pack_rounded(weight, self.kind)
        return packed.parts()

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        check_mask(parts["mask"], self.width, "a packed24 weight")
        packed = PackedWeight(self.kind, self.width, getattr(torch, self.dtype), **parts)
        return unpack(packed).float()
