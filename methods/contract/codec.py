"""Storage of quantized weights: codecs, the tensors of a weight, and the bytes that they take.

A quantizer gives each weight as named tensors and a codec that turns them into the weight. The
runner writes these tensors, reads them again, compares the weight that they give with the one that
is measured, bit for bit, and counts their bytes. So no quantizer states its bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from methods.contract.pattern import Pattern

STORED_KEY = "stored"
"""Key of `Storage.notes()` in the notes of a record."""


class Codec(Protocol):
    """A way to store the weight of a linear [out, in] as named tensors.

    A frozen dataclass. Its fields are JSON values. They are stored beside the tensors, so that the
    codec can be made again. Its name is its entry point in the group `cast_bench.codecs`.
    """

    name: ClassVar[str]

    @property
    def bits(self) -> Mapping[str, int]:
        """Bits of each number in the parts that hold whole numbers from 0, in uint8. Other parts
        keep their dtype."""
        ...

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the weight [out, in], float32, on the device of the parts."""
        ...


class StoredWeight(NamedTuple):
    """The tensors of a weight, and the codec that turns them into the weight."""

    codec: Codec
    parts: Mapping[str, Tensor]
    pattern: Pattern | None = None
    """Pattern of this weight alone; None for that of the model."""

    def decode(self) -> Tensor:
        """Return the weight [out, in], float32. Zeros are +0.0."""
        weight = self.codec.decode(self.parts)
        return weight.masked_fill_(weight == 0, 0)


@dataclass(frozen=True)
class FloatCodec:
    """Numbers in the format of the model: `values` [out, in]."""

    name: ClassVar[str] = "float"
    bits: ClassVar[Mapping[str, int]] = {}

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        return parts["values"].float()


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Bytes that the weights of a model's targets take."""

    weights: int
    """Number of weights."""
    values: int
    """Bytes of the values: one code or number for each weight that is kept."""
    others: int = 0
    """Bytes of scales, codebooks, masks and the rest."""
    is_packed: bool = False
    """True if the values leave pruned weights out, or cannot leave them out. No pattern lowers
    their bits then."""
    total: int | None = None
    """Bytes of the whole model in the files that were read. None: those of the artifact's
    folder."""
    claimed: str = ""
    """Library that claims these bytes. "" if they were counted."""
    form: str = ""
    """Codecs, or the format of the files, in words."""

    @property
    def bits(self) -> float:
        """Bits of the values per weight."""
        return 8 * self.values / max(1, self.weights)

    @property
    def other_bits(self) -> float:
        """Bits of scales and the rest per weight."""
        return 8 * self.others / max(1, self.weights)

    @property
    def all_bits(self) -> float:
        """Bits of everything per weight."""
        return 8 * (self.values + self.others) / max(1, self.weights)

    def with_floats(self, weights: int, size: int, pattern: Pattern) -> Storage:
        """Return the storage with that of other targets, which are numbers of `size` bytes under a
        pattern.

        A pattern n:m stores n of every m numbers, and a mask of one bit for each weight or pair.
        """
        is_sparse = pattern.m > pattern.n
        values, others = weights * size, 0
        if is_sparse:
            values, others = values * pattern.n // pattern.m, int(weights * pattern.mask_bits) // 8
        return replace(
            self,
            weights=self.weights + weights,
            values=self.values + values,
            others=self.others + others,
        )

    def notes(self) -> dict[str, Any]:
        """Return the note of a record, JSON."""
        return {STORED_KEY: asdict(self)}
