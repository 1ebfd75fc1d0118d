"""Weights that are made from others while a method trains: by scales, gates, masks or updates."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.utils import parametrize


@torch.no_grad()
def bake(model: nn.Module, targets: Iterable[str]) -> None:
    """Let the targets keep the weights that their parametrizations give, and remove these. Outputs stay the same."""
    for module in map(model.get_submodule, targets):
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
