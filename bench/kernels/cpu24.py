"""Weights in the native kernel's layout, and products with them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.kernels import native
from bench.kernels.packed24 import CODES, PackedWeight, unpack

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
    """Bytes of each row, uint8 [out, bytes]."""
    scales: Tensor | None
    """Scales of int8, float32 [out]."""
    width: int
    dtype: torch.dtype = torch.bfloat16
    """Dtype of the original weight."""

    @property
    def int8(self) -> bool:
        return self.scales is not None

    @property
    def dense(self) -> bool:
        """Return whether a row has all of its values, and no codes."""
        return self.memory.shape[1] == self.blocks * BLOCK * (1 if self.int8 else 2)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.memory), self.width

    @property
    def blocks(self) -> int:
        return -(-self.width // BLOCK)


def supports(packed: PackedWeight) -> bool:
    """Return whether the kernel supports a weight: bfloat16, or int8 with one scale per row."""
    if packed.kind == "int8":
        return packed.scales is not None and packed.scales.shape[1] == 1
    return packed.kind == "float" and packed.dtype == torch.bfloat16


def to_kernel_layout(packed: PackedWeight) -> KernelWeight:
    """Convert from packed24. Each CHUNK of blocks has its codes, two positions a group, then its values."""
    values, rows = packed.values.view(torch.uint8).numpy(), len(packed.values)
    blocks = -(-packed.width // BLOCK)
    item = packed.values.itemsize
    codes = _TO_PLACES[packed.mask.numpy() & 15] | _TO_PLACES[packed.mask.numpy() >> 4] << 4
    memory = np.empty((rows, blocks * (8 + 32 * item)), dtype=np.uint8)
    for at, start, n in _chunks(blocks, item):
        middle, end = at + 8 * n, at + (8 + 32 * item) * n
        _fill(memory[:, at:middle], codes[:, 8 * start : 8 * (start + n)])
        _fill(memory[:, middle:end], values[:, 32 * item * start : 32 * item * (start + n)])
    scales = packed.scales[:, 0].float().contiguous() if packed.scales is not None else None
    return KernelWeight(torch.from_numpy(memory), scales, packed.width, dtype=packed.dtype)


def from_kernel_layout(weight: KernelWeight) -> PackedWeight:
    """Convert back to packed24."""
    item = 1 if weight.int8 else 2
    memory, width = weight.memory.numpy(), weight.width
    codes = np.empty((len(memory), weight.blocks * 8), dtype=np.uint8)
    values = np.empty((len(memory), weight.blocks * 32 * item), dtype=np.uint8)
    for at, start, n in _chunks(weight.blocks, item):
        middle, end = at + 8 * n, at + (8 + 32 * item) * n
        codes[:, 8 * start : 8 * (start + n)] = memory[:, at:middle]
        values[:, 32 * item * start : 32 * item * (start + n)] = memory[:, middle:end]
    mask = _TO_MASK[codes & 15] | _TO_MASK[codes >> 4] << 4
    mask = np.ascontiguousarray(mask[:, : -(-width // 8)])
    packed_values = torch.from_numpy(np.ascontiguousarray(values[:, : width // 2 * item]))
    scales = weight.scales[:, None].bfloat16() if weight.scales is not None else None
    kind, dtype = ("int8", torch.int8) if weight.int8 else ("float", torch.bfloat16)
    return PackedWeight(kind, width, weight.dtype, packed_values.view(dtype), torch.from_numpy(mask), scales)


def integers_and_scales(packed: PackedWeight) -> tuple[Tensor, Tensor]:
    """Return an int8 weight's integers, dense int8 [out, width], and their scales, float32 [out]."""
    assert packed.scales is not None
    plain = replace(packed, dtype=torch.float32, scales=torch.ones_like(packed.scales))
    return unpack(plain).to(torch.int8), packed.scales[:, 0].float()


def dense_twin(packed: PackedWeight) -> KernelWeight:
    """Return the same weight for the kernel without sparsity."""
    if packed.kind == "int8":
        return to_dense_kernel_layout(*integers_and_scales(packed), packed.dtype)
    return to_dense_kernel_layout(unpack(packed))


def to_dense_kernel_layout(
    weight: Tensor, scales: Tensor | None = None, dtype: torch.dtype = torch.bfloat16
) -> KernelWeight:
    """Convert a dense matrix for the kernel without sparsity: bfloat16 [out, width], or int8 with float32 scales [out].

    dtype: of the weight that the integers stand for.
    """
    blocks = -(-weight.shape[1] // BLOCK)
    padded = torch.nn.functional.pad(weight, (0, blocks * BLOCK - weight.shape[1])).contiguous()
    return KernelWeight(aligned_copy(padded.view(torch.uint8)), scales, weight.shape[1], dtype)


def unpack_kernel_weight(weight: KernelWeight) -> Tensor:
    """Return the dense matrix [out, width]."""
    if not weight.dense:
        return unpack(from_kernel_layout(weight))
    dense = weight.memory.view(torch.int8 if weight.int8 else torch.bfloat16)[:, : weight.width]
    return dense if weight.scales is None else (dense.float() * weight.scales[:, None]).to(weight.dtype)


def aligned_copy(memory: Tensor) -> Tensor:
    """Copy bytes to memory from numpy, which asks for large pages, so that rows cross fewer page borders."""
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
    """Multiply x [rows, width] by the transposed matrix and add the bias [out]: [rows, out] in `dtype`.

    For bfloat16 weights, x is rounded to bfloat16. For int8 weights, each row is scaled by its largest value to int16, and
    the sums are exact. A few rows read each weight once; for many, the kernel unpacks some weights at a time.

    Args:
        dtype: float32 or bfloat16.

    Raises:
        NoKernel: the kernel cannot be compiled here.
        UserError: this processor does not support the path.
    """
    kernel = native.load()
    wide = weight.int8 and x.dtype != torch.bfloat16
    x = x.to(torch.float32 if wide else torch.bfloat16).contiguous()
    rows, out = len(x), len(weight.memory)
    y = torch.empty(rows, out, dtype=dtype)
    bias = bias if bias is None else bias.to(dtype)
    matrix = (
        weight.dense,
        weight.memory.data_ptr(),
        *(None if t is None else t.data_ptr() for t in (weight.scales, bias)),
    )
    isa = native.PATHS.index(native.select_path(kernel, path))
    half = dtype == torch.bfloat16
    kernel.product(isa, *matrix, x.data_ptr(), wide, rows, weight.width, out, y.data_ptr(), half, threads)
    return y


def _chunks(blocks: int, item: int) -> Any:
    """Return first byte, first block and number of blocks of each chunk of a row."""
    size = 8 + 32 * item
    return [(size * b, b, min(CHUNK, blocks - b)) for b in range(0, blocks, CHUNK)]


def _fill(target: np.ndarray[Any, Any], source: np.ndarray[Any, Any]) -> None:
    """Fill a row and pad it with zeros to whole blocks. A zero adds nothing at any position."""
    target[:, : source.shape[1]] = source
    target[:, source.shape[1] :] = 0
