"""Packed 2:4 weights: two kept values of every four, and a mask of one bit per weight. numpy packs
them piece by piece.

A float of b bits takes b/2 + 1 bits per weight: 9 in bfloat16. On an integer grid int8 takes 5 and
int4 3, plus bfloat16 scales.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from methods.contract.errors import UserError
from methods.model.folder import dtype_name

FLOAT_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
PIECE_WEIGHTS = 2**18
"""Number of weights that are processed at a time and fit the processor's cache."""
CODES = np.array([0b0011, 0b0101, 0b1001, 0b0110, 0b1010, 0b1100], dtype=np.uint8)
"""The six masks that keep two of four. Bit j is weight j."""
# Places of the first and the second kept weight of a group by its mask, 0 for other masks.
_FIRST, _SECOND = np.zeros((2, 16), dtype=np.uint8)
# The mask of a group by its non-zeros. The lowest zeros fill it up to two. It is 0 for more than
# two non-zeros.
_COMPLETE = np.zeros(16, dtype=np.uint8)
for _code in CODES[::-1]:
    _FIRST[_code], _SECOND[_code] = (j for j in range(4) if _code >> j & 1)
    for _nonzeros in range(16):
        # The first of CODES is set last.
        if _nonzeros & _code == _nonzeros:
            _COMPLETE[_nonzeros] = _code
_VALID = np.isin(np.arange(16), CODES)
_WORDS: dict[int, Any] = {1: np.uint32, 2: np.uint64}
_ITEMS: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32}


@dataclass(frozen=True)
class PackedWeight:
    """A weight [out, in] with two kept of every four neighbours along the input."""

    kind: str
    """Kind of the values: "float" for the original ones, "int8" or "int4" for integers q of weights
    q * scale."""
    width: int
    """Input size."""
    dtype: torch.dtype
    """Dtype of the original weight."""
    values: Tensor
    """Kept values in order, [out, in/2]. int4: uint8 [out, in/4], two's complement, the first value
    in the low half."""
    mask: Tensor
    """Mask, uint8 [out, ceil(in/8)]. Bit j of byte k is 1 if weight 8k + j is kept. Bits past the
    width are 0."""
    scales: Tensor | None = None
    """Scales of consecutive groups along the input, bfloat16 [out, groups], or None for floats."""

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.values), self.width

    def parts(self) -> dict[str, Tensor]:
        """Return the stored tensors by name."""
        parts = {"values": self.values, "mask": self.mask}
        return parts if self.scales is None else parts | {"scales": self.scales}

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.parts().values())


def pack(weight: Tensor, name: str = "weight") -> PackedWeight:
    """Pack a float weight [out, in] of any device, bit for bit, on the CPU. name: name for error
    messages.

    Raises:
        UserError: not a matrix of bfloat16, float16 or float32, a width that 4 does not divide, a
            -0.0, or a group with more than two non-zeros.
    """
    if weight.ndim != 2 or weight.dtype not in FLOAT_DTYPES:
        kinds = ", ".join(dtype_name(d) for d in FLOAT_DTYPES)
        raise UserError(
            f"{name} is {dtype_name(weight.dtype)} {list(weight.shape)}: packed24 needs a matrix "
            f"of {kinds}: convert it first"
        )
    weight = weight.cpu()
    rows, width = weight.shape
    if width % 4 or not weight.numel():
        raise UserError(
            f"{name} is {[rows, width]}: packed24 needs an input width that 4 divides: leave it "
            "dense"
        )
    bits = _bits(weight)
    mask = np.empty((rows, -(-width // 8)), dtype=np.uint8)

    def piece(at: slice) -> None:
        mask[at] = _mask(bits[at], at.start, name)

    _for_each_piece(piece, rows, width)
    values = torch.empty(rows, width // 2, dtype=weight.dtype)
    _gather(bits, mask, _bits(values))
    return PackedWeight("float", width, weight.dtype, values, torch.from_numpy(mask))


def unpack(packed: PackedWeight) -> Tensor:
    """Return the dense weight [out, in], bit for bit for floats. The mask must have passed
    `check_mask`."""
    values = split_int4(packed.values) if packed.kind == "int4" else packed.values
    dense = torch.empty(packed.shape, dtype=values.dtype)
    _scatter(_bits(values), packed.mask.numpy(), _bits(dense))
    if packed.scales is None:
        return dense
    out = torch.empty(packed.shape, dtype=packed.dtype)
    for rows in row_pieces(*packed.shape):
        scaled = (
            dense[rows].unflatten(1, (packed.scales.shape[1], -1)).float()
            * packed.scales[rows, :, None].float()
        )
        out[rows] = scaled.flatten(1)
    return out


def join_int4(integers: Tensor) -> Tensor:
    """Pack two int4 into each byte: int8 [out, n] in -8 ... 7 -> uint8 [out, n/2]."""
    halves = integers.view(torch.uint8)
    return (halves[:, ::2] & 15) | (halves[:, 1::2] << 4)


def split_int4(joined: Tensor) -> Tensor:
    """Unpack two int4 from each byte: uint8 [out, n/2] -> int8 [out, n]."""
    halves = torch.stack((joined & 15, joined >> 4), dim=-1).flatten(1).view(torch.int8)
    return (halves ^ 8) - 8


def pack_integers(
    integers: Tensor, mask: Tensor, kind: str, scales: Tensor, dtype: torch.dtype
) -> PackedWeight:
    """Pack weights q * scale. integers: int8 [out, in], for int4 in -8 ... 7. mask: the mask from
    `pack`."""
    values = torch.empty(len(integers), integers.shape[1] // 2, dtype=torch.int8)
    _gather(_bits(integers), mask.numpy(), _bits(values))
    if kind == "int4":
        values = join_int4(values)
    return PackedWeight(kind, integers.shape[1], dtype, values, mask, scales)


def check_mask(mask: Tensor, width: int, name: str) -> None:
    """Refuse a packed mask that does not keep two of every four of `width` weights."""
    low, high = mask.numpy() & 15, mask.numpy() >> 4
    valid = _VALID[low]
    if width // 4 % 2:
        valid[:, -1] &= high[:, -1] == 0
        high = high[:, :-1]
    if not valid.all() or not _VALID[high].all():
        raise UserError(
            f"the mask of {name} does not keep two of every four weights: write the file again"
        )


def row_pieces(rows: int, width: int) -> Iterator[slice]:
    """Return slices of rows with about PIECE_WEIGHTS weights each."""
    step = max(1, PIECE_WEIGHTS // max(1, width))
    return (slice(a, a + step) for a in range(0, rows, step))


def _bits(tensor: Tensor) -> NDArray[Any]:
    """View the same memory as unsigned integers."""
    sizes = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
    return (
        tensor.detach()
        .contiguous()
        .view(sizes[tensor.itemsize])
        .numpy()
        .view(_ITEMS[tensor.itemsize])
    )


def _for_each_piece(work: Callable[[slice], None], rows: int, width: int) -> None:
    """Run `work` on every piece in torch's number of threads."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(work, row_pieces(rows, width)))


def _mask(bits: NDArray[Any], start: int, name: str) -> NDArray[np.uint8]:
    """Return the packed mask of some rows. start: number of the first row."""
    if (bits == 1 << (8 * bits.itemsize - 1)).any():
        raise UserError(
            f"{name} contains -0.0, which packing would not treat as zero: add 0.0 to the "
            "weights, which makes it 0.0, and export again"
        )
    # One byte per weight is one word per group. The product gathers its four bytes into four bits.
    nonzero = (bits != 0).view(np.uint32)
    complete = _COMPLETE[nonzero * np.uint32(0x01020408) >> np.uint32(24)]
    if not complete.all():
        row, group = (int(i) for i in np.argwhere(complete == 0)[0])
        raise UserError(
            f"{name} is not 2:4: row {start + row} has more than two non-zeros among weights "
            f"{4 * group} to {4 * group + 3}: export it with --format hf, or prune the model with "
            "--pattern 2:4 first"
        )
    if complete.shape[1] % 2:
        complete = np.pad(complete, ((0, 0), (0, 1)))
    return complete[:, ::2] | complete[:, 1::2] << 4  # type: ignore[no-any-return]


def _codes(mask: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Return four mask bits per group, [rows, width/4]."""
    return np.stack((mask & 15, mask >> 4), axis=-1).reshape(len(mask), -1)[:, : width // 4]


def _for_each_part(
    work: Callable[..., None], bits: NDArray[Any], mask: NDArray[np.uint8], values: NDArray[Any]
) -> None:
    """Run `work` on the mask bits, items of 8 or 16 bits, and first and second kept items of every
    piece.

    bits: items [rows, width]. values: kept items [rows, width/2]. A group of four items is handled
    as one word, and numpy has no word of 16 bytes, so items of 32 bits are two parts.
    """
    (rows, width), n = bits.shape, 1
    if bits.itemsize == 4:
        n, bits, values = 2, bits.view(np.uint16), values.view(np.uint16)

    def piece(at: slice) -> None:
        codes, items, kept = _codes(mask[at], width), bits[at], values[at]
        for half in range(n):
            work(codes, items[:, half::n], kept[:, half :: 2 * n], kept[:, half + n :: 2 * n])

    _for_each_piece(piece, rows, width)


def _gather(bits: NDArray[Any], mask: NDArray[np.uint8], values: NDArray[Any]) -> None:
    """Copy kept items of bits [rows, width] to values [rows, width/2]."""

    def work(
        codes: NDArray[np.uint8], items: NDArray[Any], first: NDArray[Any], second: NDArray[Any]
    ) -> None:
        word, size = _WORDS[items.itemsize], 8 * items.itemsize
        groups = np.ascontiguousarray(items).view(word)
        # The assignment cuts off the higher bits.
        first[:] = groups >> (_FIRST * size).astype(word)[codes]
        second[:] = groups >> (_SECOND * size).astype(word)[codes]

    _for_each_part(work, bits, mask, values)


def _scatter(values: NDArray[Any], mask: NDArray[np.uint8], bits: NDArray[Any]) -> None:
    """Write values [rows, width/2] to their places in bits [rows, width], and zeros elsewhere."""

    def work(
        codes: NDArray[np.uint8], items: NDArray[Any], first: NDArray[Any], second: NDArray[Any]
    ) -> None:
        word, size = _WORDS[items.itemsize], 8 * items.itemsize
        groups = first.astype(word) << (_FIRST * size).astype(word)[codes]
        groups |= second.astype(word) << (_SECOND * size).astype(word)[codes]
        items[:] = groups.view(items.dtype)

    _for_each_part(work, bits, mask, values)
