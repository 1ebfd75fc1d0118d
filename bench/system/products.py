"""Products of bfloat16 numbers on a CPU without instructions for them: in float32, and rounded once to bfloat16.

torch's own products take five times as long there. They sum in float32 too, so the results differ in the order of sums.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from bench.system.devices import has_instructions_for

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
_installed: list[torch.library.Library] = []


def use_float32(wanted: bool) -> None:
    """Compute this process's products in bfloat16 through float32 from now on, or not, if the CPU is slow at them."""
    while _installed and not wanted:
        _installed.pop()._destroy()
    if wanted and not _installed and not has_instructions_for("bfloat16"):
        library = torch.library.Library("aten", "IMPL")
        with warnings.catch_warnings(action="ignore"):  # torch warns of each kernel that is replaced
            for name in PRODUCTS:
                own = torch.library.get_kernel(f"aten::{name}", "CPU")
                library.impl(name, _through_float32(own), "CPU", with_keyset=True)
        _installed.append(library)


def _through_float32(kernel: Any) -> Any:
    def product(keys: Any, *tensors: Tensor, **scalars: Any) -> Tensor:
        is_slow = tensors[0].dtype is torch.bfloat16
        out: Tensor = kernel.call_boxed(keys, *((t.float() for t in tensors) if is_slow else tensors), **scalars)
        return out.bfloat16() if is_slow else out

    return product
