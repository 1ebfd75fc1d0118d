"""Weights laid out for the native kernel, and products with them."""

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
    """A matrix [out, width] as the kernel reads it."""

    memory: Tensor
    """uint8 [out, bytes of a row]"""
    scales: Tensor | None
    """float32 [out]; of int8"""
    width: int
    dense: bool = False
    dtype: torch.dtype = torch.bfloat16
    """Of the weight it stands for."""

    @property
    def int8(self) -> bool:
        return self.scales is not None

    @property
    def blocks(self) -> int:
        return -(-self.width // BLOCK)


def supports(packed: PackedWeight) -> bool:
    """Has the kernel a path for it? bfloat16, and int8 with a scale a row."""
    if packed.kind == "int8":
        return packed.scales is not None and packed.scales.shape[1] == 1
    return packed.kind == "float" and packed.dtype == torch.bfloat16


def to_kernel_layout(packed: PackedWeight) -> KernelWeight:
    """From packed24: beside bfloat16 the mask's bits become places; eight blocks' codes and values lie together."""
    values, rows = packed.values.view(torch.uint8).numpy(), len(packed.values)
    blocks = -(-packed.width // BLOCK)
    item = packed.values.itemsize
    codes = packed.mask.numpy()
    if item > 1:
        codes = _TO_PLACES[codes & 15] | _TO_PLACES[codes >> 4] << 4
    memory = np.empty((rows, blocks * (8 + 32 * item)), dtype=np.uint8)
    for at, start, n in _chunks(blocks, item):
        middle, end = at + 8 * n, at + (8 + 32 * item) * n
        _fill(memory[:, at:middle], codes[:, 8 * start : 8 * (start + n)])
        _fill(memory[:, middle:end], values[:, 32 * item * start : 32 * item * (start + n)])
    scales = packed.scales[:, 0].float().contiguous() if packed.scales is not None else None
    return KernelWeight(torch.from_numpy(memory), scales, packed.width, dtype=packed.dtype)


def from_kernel_layout(laid: KernelWeight) -> PackedWeight:
    """The packed24 it was laid from."""
    item = 1 if laid.int8 else 2
    memory, width = laid.memory.numpy(), laid.width
    codes = np.empty((len(memory), laid.blocks * 8), dtype=np.uint8)
    values = np.empty((len(memory), laid.blocks * 32 * item), dtype=np.uint8)
    for at, start, n in _chunks(laid.blocks, item):
        middle, end = at + 8 * n, at + (8 + 32 * item) * n
        codes[:, 8 * start : 8 * (start + n)] = memory[:, at:middle]
        values[:, 32 * item * start : 32 * item * (start + n)] = memory[:, middle:end]
    mask = codes if laid.int8 else _TO_MASK[codes & 15] | _TO_MASK[codes >> 4] << 4
    mask = np.ascontiguousarray(mask[:, : -(-width // 8)])
    kept = torch.from_numpy(np.ascontiguousarray(values[:, : width // 2 * item]))
    scales = laid.scales[:, None].bfloat16() if laid.scales is not None else None
    kind, stored = ("int8", torch.int8) if laid.int8 else ("float", torch.bfloat16)
    return PackedWeight(kind, width, laid.dtype, kept.view(stored), torch.from_numpy(mask), scales)


def integers_and_scales(packed: PackedWeight) -> tuple[Tensor, Tensor]:
    """Of an int8 weight: the integers, dense int8 [out, width], and their scales, float32 [out]."""
    assert packed.scales is not None
    plain = replace(packed, dtype=torch.float32, scales=torch.ones_like(packed.scales))
    return unpack(plain).to(torch.int8), packed.scales[:, 0].float()


def to_dense_kernel_layout(weight: Tensor, scales: Tensor | None = None) -> KernelWeight:
    """The same for the kernel without sparsity: bfloat16 [out, width], or int8 with float32 scales [out]."""
    blocks = -(-weight.shape[1] // BLOCK)
    padded = torch.nn.functional.pad(weight, (0, blocks * BLOCK - weight.shape[1])).contiguous()
    return KernelWeight(aligned_copy(padded.view(torch.uint8)), scales, weight.shape[1], dense=True)


def unpack_kernel_weight(laid: KernelWeight) -> Tensor:
    """The dense matrix [out, width] it stands for."""
    if not laid.dense:
        return unpack(from_kernel_layout(laid))
    whole = laid.memory.view(torch.int8 if laid.int8 else torch.bfloat16)[:, : laid.width]
    return whole if laid.scales is None else (whole.float() * laid.scales[:, None]).to(laid.dtype)


def aligned_copy(memory: Tensor) -> Tensor:
    """A copy of bytes in memory of numpy's, which asks for large pages: torch's rows would cross a small one each."""
    return torch.from_numpy(memory.numpy().copy())


def product(x: Tensor, laid: KernelWeight, *, threads: int = 1, path: str | None = None) -> Tensor:
    """x [rows, width] times the matrix transposed: float32 [rows, out]. Four rows of x share a reading of the weights.

    bfloat16 weights see x as bfloat16; int8 ones see it as int16, each row by its largest, and add exactly.

    Raises:
        NoKernel: none here.
    """
    kernel = native.load()
    wide = laid.int8 and x.dtype != torch.bfloat16
    seen = x.to(torch.float32 if wide else torch.bfloat16).contiguous()
    rows, out = len(seen), len(laid.memory)
    y = torch.empty(rows, out)
    kernel.product(
        laid.memory.data_ptr(),
        laid.scales.data_ptr() if laid.scales is not None else None,
        seen.data_ptr(),
        y.data_ptr(),
        int8=laid.int8,
        dense=laid.dense,
        wide=wide,
        rows=rows,
        width=laid.width,
        out=out,
        threads=threads,
        path=path,
    )
    return y


def _chunks(blocks: int, item: int) -> Any:
    """(first byte, first block, blocks) of each chunk of a row."""
    size = 8 + 32 * item
    return [(size * b, b, min(CHUNK, blocks - b)) for b in range(0, blocks, CHUNK)]


def _fill(target: np.ndarray[Any, Any], source: np.ndarray[Any, Any]) -> None:
    """Where a row ends within a block the rest are zeros: values of zero at whatever place add nothing."""
    target[:, : source.shape[1]] = source
    target[:, source.shape[1] :] = 0
