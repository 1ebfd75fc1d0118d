"""Products of bfloat16 numbers on a CPU without instructions for them: in float32, and rounded once
to bfloat16.

torch's own products take several times as long there (benchmarks/products.py). They sum in float32
too, so the results differ in the order of sums. torch's own gradients of attention round between
their products, too, so they are less exact.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from bench.system.devices import has_instructions_for

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "_scaled_dot_product_flash_attention_for_cpu_backward")
_installed: list[torch.library.Library] = []


def use_float32(wanted: bool) -> None:
    """Compute this process's products in bfloat16 through float32 from now on, or not, if the CPU
    is slow at them."""
    while _installed and not wanted:
        _installed.pop()._destroy()
    if wanted and not _installed and not has_instructions_for("bfloat16"):
        library = torch.library.Library("aten", "IMPL")
        # torch warns of each kernel that is replaced.
        with warnings.catch_warnings(action="ignore"):
            for name in PRODUCTS:
                own = torch.library.get_kernel(f"aten::{name}", "CPU")
                library.impl(name, _through_float32(own), "CPU", with_keyset=True)
        _installed.append(library)


def _through_float32(kernel: Any) -> Any:
    def product(keys: Any, *operands: Any, **options: Any) -> Any:
        if operands[0].dtype is not torch.bfloat16:
            return kernel.call_boxed(keys, *operands, **options)
        options = {name: _in_float32(value) for name, value in options.items()}
        out = kernel.call_boxed(keys, *map(_in_float32, operands), **options)
        return tuple(t.bfloat16() for t in out) if isinstance(out, tuple) else out.bfloat16()

    return product


def _in_float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype is torch.bfloat16 else value
