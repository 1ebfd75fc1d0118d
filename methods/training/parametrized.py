"""Weights that a training computes from other parameters: scales, gates, masks or updates."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.utils import parametrize


@torch.no_grad()
def bake(model: nn.Module, targets: Iterable[str]) -> None:
    """Store the weights that the targets' parametrizations give, and remove these. Outputs do not change."""
    for module in map(model.get_submodule, targets):
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
