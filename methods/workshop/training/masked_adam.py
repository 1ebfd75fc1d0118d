"""Adam under a mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from methods.workshop.training.process_group import local


class MaskedAdamW(torch.optim.AdamW):
    """AdamW that keeps pruned weights at zero: their gradients are set to zero, so they get no
    momentum."""

    def __init__(self, params: Any, masks: dict[nn.Parameter, Tensor], **options: Any) -> None:
        super().__init__(params, weight_decay=0.0, **options)
        self._masks = masks

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for parameter, keep in self._masks.items():
            if parameter.grad is not None:
                local(parameter.grad).masked_fill_(~keep, 0)
        super().step()
