"""2:4 products on a CUDA device by cuSPARSELt, through torch's own operators, called directly.

UNVERIFIED: written against their schemas, and never yet run on a device. The tensor subclass that torch offers drops
split_k, so it is not used. https://github.com/pytorch/pytorch/blob/main/torch/csrc/cuda/shared/cusparselt.cpp
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

MULTIPLE = 16
"""Tokens are padded to a multiple: the library wants 8 of 16-bit values, 16 of 8-bit ones."""


class Plan(NamedTuple):
    """What the library's search says is fastest for one size of input."""

    alg_id: int = 0
    split_k: int = 1
    split_k_mode: int = -1


class Compressed:
    """A 2:4 weight [out, in] on the device, in the library's own layout."""

    def __init__(self, weight: Tensor) -> None:
        self.memory: Tensor = torch._cslt_compress(weight)
        self._plans: dict[int, Plan] = {}

    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """x [tokens, in] times the weight transposed, plus bias: [tokens, out]. Searches once a padded size."""
        count = len(x)
        x = torch.nn.functional.pad(x, (0, 0, 0, -count % MULTIPLE))
        plan = self._plans.get(len(x))
        if plan is None:
            plan = self._plans[len(x)] = self.search(x, bias)
        y: Tensor = torch._cslt_sparse_mm(
            self.memory,
            x.t(),
            bias=bias,
            transpose_result=True,
            alg_id=plan.alg_id,
            split_k=plan.split_k,
            split_k_mode=plan.split_k_mode,
        )
        return y[:count]

    def search(self, x: Tensor, bias: Tensor | None) -> Plan:
        """Found by timing on the device; kept only where its product agrees with that of the default.

        A known algorithm id returns wrong results, so what is found is not taken on trust.
        """
        library: Any = torch._C._cusparselt
        alg_id, split_k, split_k_mode, _ = library.mm_search(self.memory, x.t(), bias, None, None, True)
        found = Plan(alg_id, split_k, split_k_mode)
        usual, other = (
            torch._cslt_sparse_mm(self.memory, x.t(), bias=bias, transpose_result=True, **plan._asdict()).float()
            for plan in (Plan(), found)
        )
        scale = usual.abs().amax().clamp(min=torch.finfo(torch.float32).tiny)
        return found if bool((usual - other).abs().amax() <= 2e-2 * scale) else Plan()
