"""The native product as an operator of torch, which torch.export keeps in a graph and a compiled
graph calls in C."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.parts.packed24 import cpu24, native


@torch.library.custom_op("cast_bench::packed_linear", mutates_args=(), device_types="cpu")
def packed_linear(
    x: Tensor, memory: Tensor, scales: Tensor | None, bias: Tensor | None, isa: int
) -> Tensor:
    """Multiply x [rows, width] by a packed matrix and add the bias: [rows, out] in the dtype of x,
    in torch's threads.

    x: contiguous, bfloat16, or float32 beside integer weights. memory, scales: those of a
    KernelWeight. isa: index in native.PATHS.
    """
    weight = cpu24.KernelWeight(memory, scales, x.shape[1])
    return cpu24.product(
        x, weight, bias, threads=torch.get_num_threads(), path=native.PATHS[isa], dtype=x.dtype
    )


@packed_linear.register_fake
def _(x: Tensor, memory: Tensor, scales: Tensor | None, bias: Tensor | None, isa: int) -> Tensor:
    return x.new_empty(x.shape[0], memory.shape[0])


def shims() -> dict[Any, list[str]]:
    """Return the declaration of the C function of each operator, for AOTInductor, and make the
    functions callable."""
    native.load().bind_torch()
    handles = (
        "AtenTensorHandle x, AtenTensorHandle memory, AtenTensorHandle* scales, AtenTensorHandle* "
        "bias"
    )
    signature = (
        f"AOTITorchError aoti_torch_cpu_packed_linear({handles}, int64_t isa, AtenTensorHandle* "
        "out)"
    )
    return {torch.ops.cast_bench.packed_linear.default: [signature]}
