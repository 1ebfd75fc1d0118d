"""The codec of packed 2:4 weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.parts.packed24.integers24 import pack_rounded
from bench.parts.packed24.packing import PackedWeight, check_mask, pack, unpack
from methods.contract.codec import StoredWeight
from methods.model.folder import dtype_name


@dataclass(frozen=True)
class Packed24Codec:
    """Two kept values of every four: `values`, `kept` and `scales`, which are the values, the mask
    and the scales of a PackedWeight."""

    name: ClassVar[str] = "packed24"
    bits: ClassVar[Mapping[str, int]] = {}
    kind: str
    """Kind of the values: float, int8 or int4."""
    width: int
    """Input size."""
    dtype: str
    """Dtype of the weight."""

    def __str__(self) -> str:
        return f"packed24 of {self.kind} values"

    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        """Return the parts of a 2:4 weight [out, in], rounded to the kind of the values. Raise
        UserError as `pack` and `pack_rounded`."""
        weight = weight.to(getattr(torch, self.dtype))
        packed = pack(weight) if self.kind == "float" else pack_rounded(weight, self.kind)
        return dict(store(packed).parts)

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        check_mask(parts["kept"], self.width, "a packed24 weight")
        dtype = getattr(torch, self.dtype)
        values, mask, scales = parts["values"], parts["kept"], parts.get("scales")
        return unpack(PackedWeight(self.kind, self.width, dtype, values, mask, scales)).float()


def store(packed: PackedWeight) -> StoredWeight:
    """Return a packed weight as its codec stores it. The folder of stored weights has a `mask` of
    its own, so that of the weight is `kept`."""
    parts = {"values": packed.values, "kept": packed.mask}
    if packed.scales is not None:
        parts["scales"] = packed.scales
    return StoredWeight(Packed24Codec(packed.kind, packed.width, dtype_name(packed.dtype)), parts)
