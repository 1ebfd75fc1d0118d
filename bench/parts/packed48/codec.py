"""The codec of pairs:4:8 weights: the numbers of the kept pairs, and which pairs they are.

Of each eight numbers four are stored, and the places of their two pairs as two indices of 2 bits,
the lower first. That is the metadata of sparse tensor cores with 4-bit operands, half a bit per
weight: PTX ISA 9.1, 9.7.14.6.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.formats.stored import find_codec, keep_mask
from methods.contract.codec import Codec, StoredWeight
from methods.contract.errors import UserError
from methods.contract.pattern import Pattern

PAIRS = Pattern.parse("pairs:4:8")
INDICES = "pairs"
"""Part with the indices."""


@dataclass(frozen=True)
class Packed48Codec:
    """A weight of another codec, without the numbers of its pruned pairs.

    Parts: those of the other codec, but of `part` the kept numbers alone, [out, in/2]; `pairs`
    uint8 [out, in/8, 2], the places of the kept pairs, from 0 to 3.
    """

    name: ClassVar[str] = "packed48"
    inner: str
    """Name of the other codec."""
    fields: dict[str, Any]
    """Its fields."""
    part: str
    """Its part with a number for each weight."""
    fill: int
    """Number of a pruned weight."""

    def __str__(self) -> str:
        return f"packed48 of {self._codec}"

    @property
    def _codec(self) -> Codec:
        return find_codec(self.inner)(**self.fields)

    @property
    def bits(self) -> Mapping[str, int]:
        return {**self._codec.bits, INDICES: 2}

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the weight [out, in], float32. Raise UserError for indices that do not rise."""
        places, kept = parts[INDICES].long(), parts[self.part]
        if not bool((places[..., 0] < places[..., 1]).all()):
            raise UserError("the indices of a packed48 weight do not rise: write the file again")
        groups = kept.view(*places.shape, 2)
        whole = torch.full((*places.shape[:2], 4, 2), self.fill, dtype=kept.dtype)
        whole = whole.to(kept.device)
        whole.scatter_(2, places.unsqueeze(-1).expand_as(groups), groups)
        own = {name: tensor for name, tensor in parts.items() if name != INDICES}
        return self._codec.decode(own | {self.part: whole.flatten(1)})


def pack(one: StoredWeight, name: str = "weight") -> StoredWeight:
    """Pack a stored weight, bit for bit. name: name for error messages.

    Raises:
        UserError: a weight that is not pairs:4:8, or a codec without a number for each weight.
    """
    weight = one.decode()
    if not PAIRS.fits(weight.shape[1]) or PAIRS.violations(weight):
        raise UserError(
            f"{name} is not pairs:4:8, which keeps two of the four pairs of every eight weights: "
            "export it with --format hf, or prune the model with --pattern pairs:4:8 first"
        )
    whole = [part for part, tensor in one.parts.items() if tensor.shape == weight.shape]
    if len(whole) != 1:
        raise UserError(
            f"{name} is stored as {one.codec.name}, which has no number for each weight: use "
            "--format stored"
        )
    (part,) = whole
    keep = keep_mask(weight, PAIRS)
    numbers, places = one.parts[part], keep[:, ::2].unflatten(1, (-1, 4)).nonzero()[:, -1]
    left_out = numbers[~keep]
    fill = int(left_out[0])
    if not bool((left_out == fill).all()):
        raise UserError(f"{name} has several codes of zero: use --format stored")
    fields: dict[str, Any] = asdict(one.codec)  # type: ignore[call-overload]  # a dataclass
    codec = Packed48Codec(one.codec.name, fields, part, fill)
    out, width = weight.shape
    return StoredWeight(
        codec,
        {
            **one.parts,
            part: numbers[keep].view(out, width // 2),
            INDICES: places.to(torch.uint8).view(out, width // 8, 2),
        },
    )
