"""torch.compile of a model's blocks, for training on a card."""

from __future__ import annotations

import importlib.util

import torch
from torch import nn
from torch.nn.utils import parametrize

from methods.model.targets import family_of


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


def compile_blocks(model: nn.Module) -> None:
    """Compile each block, in place. They have the same code and shapes, so the first compilation
    serves them all.

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
        block.compile(dynamic=False)


def restore_blocks(model: nn.Module) -> None:
    """Undo `compile_blocks`."""
    for block in blocks_of(model):
        for module in block.modules():
            own = module.__dict__.pop("own_class", None)
            if own:
                module.__class__ = own
        block._compiled_call_impl = None
