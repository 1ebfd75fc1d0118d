"""The mean of a model's weights over the last steps of a training, which takes the place of the last step's weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class MeanWeights:
    """The running mean of all weights in training. After LAWA (Kaddour 2022), arXiv 2209.14981, but of every step."""

    def __init__(self, model: nn.Module, share: float, total: int) -> None:
        """share: of the steps, the last of which count; total: number of steps."""
        self._model = model
        self._first = total - math.ceil(share * total)
        self.tensors: dict[str, Tensor] = {}
        """The mean so far, by parameter."""

    def _weights(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self._model.named_parameters() if p.requires_grad}

    def allocate(self, steps: int) -> None:
        """Make room for the mean that a checkpoint after this many steps has."""
        if steps > self._first:
            self.tensors = {name: torch.zeros_like(weight) for name, weight in self._weights().items()}

    def add(self, step: int) -> None:
        """Count the weights after a step, from 0, if it is one of the last."""
        if step == self._first:
            self.tensors = {name: weight.clone() for name, weight in self._weights().items()}
        elif step > self._first:
            for name, weight in self._weights().items():
                self.tensors[name].lerp_(weight, 1 / (step - self._first + 1))

    def write(self) -> None:
        """Give the model its mean weights, if there are any, and free their memory."""
        weights = self._weights() if self.tensors else {}
        for name, weight in weights.items():
            weight.copy_(self.tensors.pop(name))
