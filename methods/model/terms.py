"""Low-rank terms of a model in memory: parameters of its linears, which a training changes with the
weights.

`methods.model.low_rank_adapter` has their files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from methods.model.low_rank_adapter import CHILD, Term


class Factors(nn.Module):
    """The factors of a linear's term as parameters: b [out, rank], a [rank, in].

    They are in no state_dict, because the file of the weights does not have them. For the same
    reason they stay in memory when the weights of their block are dropped.
    """

    def __init__(self, term: Term) -> None:
        super().__init__()
        self.b = nn.Parameter(term.b, requires_grad=False)
        self.a = nn.Parameter(term.a, requires_grad=False)
        self.bits = term.bits

    def forward(self, x: Tensor) -> Tensor:
        """Return B A x, in at least float32, as peft does."""
        wide = torch.promote_types(self.a.dtype, torch.float32)
        return linear(linear(x.to(wide), self.a.to(wide)), self.b.to(wide))

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        pass

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Factors:
        is_dropped = fn(torch.empty(0, dtype=self.a.dtype, device=self.a.device)).is_meta
        return self if is_dropped else super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


def attach(module: nn.Module, term: Term) -> None:
    """Add a term to the output of a linear. The weight does not change."""
    module.add_module(CHILD, Factors(term))
    module.register_forward_hook(_add)


def _add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    term: Tensor = module.get_submodule(CHILD)(args[0])
    return (output + term).to(output.dtype)


def terms_of(model: nn.Module, dtype: torch.dtype) -> dict[str, Term]:
    """Return the terms of a model by linear, in a number format."""
    found = {
        name.removesuffix(f".{CHILD}"): m
        for name, m in model.named_modules()
        if isinstance(m, Factors)
    }
    return {
        name: Term(m.b.detach().to(dtype), m.a.detach().to(dtype), m.bits)
        for name, m in found.items()
    }
