"""Weights in the native kernel's layout, and products with them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.parts.packed24 import native
from bench.parts.packed24.integers24 import BITS, group_size
from bench.parts.packed24.packing import CODES, PackedWeight, join_int4, split_int4, unpack
from methods.workshop.quantizing.integers import round_integers

BLOCK, CHUNK = 64, 8
_TO_PLACES = np.zeros(16, dtype=np.uint8)
_TO_MASK = np.zeros(16, dtype=np.uint8)
for _code in CODES.tolist():
    _first, _second = (j for j in range(4) if _code >> j & 1)
    _TO_PLACES[_code] = _first | _second << 2
    _TO_MASK[_first | _second << 2] = _code


@dataclass(frozen=True)
class KernelWeight:
    """A matrix [out, width] in the kernel's layout."""

    memory: Tensor
    """Bytes of each row, uint8 [out, bytes]. Integers of a dense row have 128, or 8, added to
    them."""
    scales: Tensor | None
    """Scales: none for bfloat16, float32 [out] for int8, bfloat16 [out, blocks] for int4."""
    width: int
    dtype: torch.dtype = torch.bfloat16
    """Dtype of the original weight."""

    @property
    def bits(self) -> int:
        """Bits of a value."""
        if self.scales is None:
            return 16
        return 4 if self.scales.dtype == torch.bfloat16 else 8

    @property
    def dense(self) -> bool:
        """Return whether a row has all of its values, and no codes."""
        return self.memory.shape[1] == self.blocks * BLOCK * self.bits // 8

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.memory), self.width

    @property
    def blocks(self) -> int:
        return -(-self.width // BLOCK)


def supports(packed: PackedWeight) -> bool:
    """Return whether the kernel supports a weight: bfloat16, int8 with a scale per row, or int4
    with whole blocks to a scale."""
    if packed.scales is None:
        return packed.dtype == torch.bfloat16
    group = packed.width // packed.scales.shape[1]
    return group == group_size(packed.kind, packed.width) and takes(packed.kind, packed.width)


def takes(kind: str, width: int) -> bool:
    """Return whether the kernel multiplies int8 or int4 of a width: a scale must be for whole
    blocks, or for the row."""
    group = group_size(kind, width)
    return group == width or group % BLOCK == 0


def to_kernel_layout(packed: PackedWeight) -> KernelWeight:
    """Convert from packed24. Each CHUNK of blocks has its codes, two positions a group, then its
    values."""
    blocks = -(-packed.width // BLOCK)
    values = packed.values.view(torch.uint8)
    if packed.kind == "int4":
        values = _to_units(split_int4(packed.values), BLOCK // 2, blocks)
    stored = BITS.get(packed.kind, 16) * 4
    codes = _TO_PLACES[packed.mask.numpy() & 15] | _TO_PLACES[packed.mask.numpy() >> 4] << 4
    scales = (
        None if packed.scales is None else _block_scales(packed.kind, packed.width, packed.scales)
    )
    memory = np.empty((len(values), blocks * (8 + stored)), dtype=np.uint8)
    for at, start, n in _chunks(blocks, stored):
        middle, end = at + 8 * n, at + (8 + stored) * n
        _fill(memory[:, at:middle], codes[:, 8 * start : 8 * (start + n)])
        _fill(memory[:, middle:end], values.numpy()[:, stored * start : stored * (start + n)])
    return KernelWeight(torch.from_numpy(memory), scales, packed.width, dtype=packed.dtype)


def from_kernel_layout(weight: KernelWeight) -> PackedWeight:
    """Convert back to packed24."""
    memory, width, stored = weight.memory.numpy(), weight.width, weight.bits * 4
    codes = np.empty((len(memory), weight.blocks * 8), dtype=np.uint8)
    values = np.empty((len(memory), weight.blocks * stored), dtype=np.uint8)
    for at, start, n in _chunks(weight.blocks, stored):
        middle, end = at + 8 * n, at + (8 + stored) * n
        codes[:, 8 * start : 8 * (start + n)] = memory[:, at:middle]
        values[:, stored * start : stored * (start + n)] = memory[:, middle:end]
    mask = _TO_MASK[codes & 15] | _TO_MASK[codes >> 4] << 4
    packed = torch.from_numpy(np.ascontiguousarray(mask[:, : -(-width // 8)]))
    kept, scales = torch.from_numpy(values), weight.scales
    if scales is None:
        floats = kept[:, :width].contiguous().view(torch.bfloat16)
        return PackedWeight("float", width, weight.dtype, floats, packed)
    if weight.bits == 8:
        integers = kept[:, : width // 2].contiguous().view(torch.int8)
        return PackedWeight(
            "int8", width, weight.dtype, integers, packed, scales[:, None].bfloat16()
        )
    pairs = join_int4(_from_units(kept, BLOCK // 2)[:, : width // 2])
    group = group_size("int4", width)
    scales = scales[:, :: max(1, group // BLOCK)].contiguous()
    return PackedWeight("int4", width, weight.dtype, pairs, packed, scales)


def dense_twin(packed: PackedWeight) -> KernelWeight:
    """Return the same weight for the kernel without sparsity."""
    if packed.scales is None:
        return to_dense_kernel_layout(unpack(packed))
    integers = unpack(
        replace(packed, dtype=torch.float32, scales=torch.ones_like(packed.scales))
    ).to(torch.int8)
    return to_dense_kernel_layout(
        integers, _block_scales(packed.kind, packed.width, packed.scales), packed.dtype
    )


def round_dense(weight: Tensor, kind: str) -> KernelWeight:
    """Round a dense float weight [out, width] to int8 or int4, for the kernel without sparsity."""
    width = weight.shape[1]
    rounded = round_integers(weight, BITS[kind], group_size(kind, width))
    return to_dense_kernel_layout(
        rounded.codes, _block_scales(kind, width, rounded.scales), weight.dtype
    )


def to_dense_kernel_layout(
    weight: Tensor, scales: Tensor | None = None, dtype: torch.dtype = torch.bfloat16
) -> KernelWeight:
    """Convert a dense matrix [out, width] for the kernel without sparsity: bfloat16, or integers
    with scales of a KernelWeight.

    dtype: of the weight that the integers stand for.
    """
    blocks = -(-weight.shape[1] // BLOCK)
    padded = torch.nn.functional.pad(weight, (0, blocks * BLOCK - weight.shape[1])).contiguous()
    stored = padded.view(torch.uint8)
    if scales is not None:
        stored = (
            _to_units(padded ^ 8, BLOCK, blocks) if scales.dtype == torch.bfloat16 else stored ^ 128
        )
    return KernelWeight(aligned_copy(stored), scales, weight.shape[1], dtype)


def unpack_kernel_weight(weight: KernelWeight) -> Tensor:
    """Return the dense matrix [out, width]."""
    if not weight.dense:
        return unpack(from_kernel_layout(weight))
    memory, scales = weight.memory, weight.scales
    if scales is None:
        return memory.view(torch.bfloat16)[:, : weight.width]
    if weight.bits == 4:
        integers, scales = (
            _from_units(memory ^ 0x88, BLOCK),
            scales.float().repeat_interleave(BLOCK, 1),
        )
    else:
        integers, scales = (memory ^ 128).view(torch.int8), scales[:, None]
    return (integers.float() * scales)[:, : weight.width].to(weight.dtype)


def aligned_copy(memory: Tensor) -> Tensor:
    """Copy bytes to memory from numpy, which asks for large pages, so that rows cross fewer page
    borders."""
    return torch.from_numpy(memory.numpy().copy())


def product(
    x: Tensor,
    weight: KernelWeight,
    bias: Tensor | None = None,
    *,
    threads: int = 1,
    path: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Multiply x [rows, width] by the transposed matrix and add the bias [out]: [rows, out] in
    `dtype`.

    For bfloat16 weights, x is rounded to bfloat16. For integers, each row is scaled by its largest
    value to int16, and the sums are exact. A few rows read each weight once; for many, the kernel
    unpacks some weights at a time.

    Args:
        dtype: float32 or bfloat16.

    Raises:
        NoKernel: the kernel cannot be compiled here.
        UserError: this processor does not support the path.
        ValueError: another number of inputs, or a bias of another length.
    """
    if x.shape[1] != weight.width or (bias is not None and bias.shape != (len(weight.memory),)):
        lengths = bias if bias is None else list(bias.shape)
        raise ValueError(
            f"inputs {list(x.shape)} or a bias {lengths} for a matrix of {len(weight.memory)} x "
            f"{weight.width}"
        )
    kernel = native.load()
    wide = weight.bits < 16 and x.dtype != torch.bfloat16
    taken = torch.float32 if wide else torch.bfloat16
    x = x.to(taken).contiguous()
    rows, out = len(x), len(weight.memory)
    y = torch.empty(rows, out, dtype=dtype)
    bias = bias if bias is None else bias.to(dtype).contiguous()
    matrix = (
        weight.bits,
        weight.dense,
        weight.memory.data_ptr(),
        *(None if t is None else t.data_ptr() for t in (weight.scales, bias)),
    )
    isa = native.PATHS.index(native.select_path(kernel, path))
    half = dtype == torch.bfloat16
    kernel.product(
        isa, *matrix, x.data_ptr(), wide, rows, weight.width, out, y.data_ptr(), half, threads
    )
    return y


def _block_scales(kind: str, width: int, scales: Tensor) -> Tensor:
    """Return the scales of a KernelWeight: one per row for int8, one per block for int4. Blocks of
    a group share their value. scales: bfloat16 [out, groups]."""
    if kind == "int8":
        return scales[:, 0].float().contiguous()
    return scales[:, torch.arange(0, width, BLOCK) * scales.shape[1] // width].contiguous()


def _to_units(integers: Tensor, unit: int, count: int) -> Tensor:
    """Pack `count` units of int4 a row: int8 [out, n] -> uint8 [out, count * unit/2]. Values i and
    unit/2 + i share a byte."""
    padded = torch.nn.functional.pad(integers, (0, unit * count - integers.shape[1])).view(
        torch.uint8
    )
    halves = padded.unflatten(1, (count, 2, unit // 2))
    joined: Tensor = (halves[:, :, 0] & 15) | halves[:, :, 1] << 4
    return joined.flatten(1)


def _from_units(packed: Tensor, unit: int) -> Tensor:
    """Unpack int4: uint8 [out, n/2] -> int8 [out, n]."""
    pairs = packed.unflatten(1, (-1, unit // 2))
    halves = torch.stack((pairs & 15, pairs >> 4), dim=2).flatten(1).view(torch.int8)
    integers: Tensor = (halves ^ 8) - 8
    return integers


def _chunks(blocks: int, stored: int) -> Any:
    """Return first byte, first block and number of blocks of each chunk of a row. stored: bytes of
    the values of a block."""
    size = 8 + stored
    return [(size * b, b, min(CHUNK, blocks - b)) for b in range(0, blocks, CHUNK)]


def _fill(target: np.ndarray[Any, Any], source: np.ndarray[Any, Any]) -> None:
    """Fill a row and pad it with zeros to whole blocks. A zero adds nothing at any position."""
    target[:, : source.shape[1]] = source
    target[:, source.shape[1] :] = 0
