"""torch.compile of a model's blocks, for training on a card."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from methods.model.experts import experts_of
from methods.model.targets import family_of

RECOMPILE_LIMIT = 64
"""Compilations of one function, after which torch would run it eagerly.

The student, its validation and the teacher take one each, times the masks of the blocks. torch's
own limit is 8.
"""


def is_wanted(choice: str, device: torch.device) -> bool:
    """Return whether to compile. choice: see Settings. "auto" compiles on a CUDA device with
    Triton. On a CPU it would change bits and save little.
    """
    if choice == "auto":
        return device.type == "cuda" and importlib.util.find_spec("triton") is not None
    return choice == "on"


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the decoder blocks of a model."""
    path = family_of(model.config.to_dict()).blocks  # type: ignore[operator, union-attr]
    return list(model.get_submodule(path).children())


def start() -> None:
    """Forget what earlier trainings of this process compiled, and their counts."""
    import torch._dynamo  # takes a second

    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT


def counts() -> dict[str, Any]:
    """Return what was compiled since `start`.

    frames: compilations; eager: those that failed, so that torch runs the function eagerly;
    limit_hit: whether a function was compiled RECOMPILE_LIMIT times.
    """
    from torch._dynamo.utils import counters

    frames = counters["frames"]
    reasons = [*counters["unimplemented"], *counters["graph_break"]]
    return {
        "frames": frames["ok"],
        "eager": frames["total"] - frames["ok"],
        "limit_hit": any("recompile limit exceeded" in reason for reason in reasons),
    }


def compile_blocks(model: nn.Module) -> None:
    """Compile each block, in place. They have the same code and shapes, so the first compilation
    serves them all.

    Experts stay outside: each batch sends them other numbers of tokens, and each number would be
    compiled. The rest of their block is compiled.

    torch makes a class for each module with a parametrization, and a compilation serves one class.
    Modules of one kind get the class of the first, which does the same.
    """
    shared: dict[tuple[type, ...], type] = {}
    for block in blocks_of(model):
        for module in block.modules():
            if parametrize.is_parametrized(module):
                kind = type(module)
                module.own_class = kind  # type: ignore[assignment]
                parts: nn.ModuleList = module.parametrizations["weight"]  # type: ignore[index, assignment]
                module.__class__ = shared.setdefault((*kind.__bases__, *map(type, parts)), kind)
        experts = experts_of(block)
        if experts:
            experts[1].forward = torch.compiler.disable(experts[1].forward)  # type: ignore[method-assign]
        block.compile(dynamic=False)


def restore_blocks(model: nn.Module) -> None:
    """Undo `compile_blocks`."""
    for block in blocks_of(model):
        for module in block.modules():
            own = module.__dict__.pop("own_class", None)
            if own:
                module.__class__ = own
        experts = experts_of(block)
        if experts:
            experts[1].__dict__.pop("forward", None)
        block._compiled_call_impl = None
