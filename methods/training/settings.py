"""What every method that trains lets one choose, and the schedule that follows from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from methods.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every method that trains lets one choose. Recipes give values by model size.

    lr: peak; warmup: share of the steps in which it rises; floor: share of the peak where the cosine ends; clip: L2
    norm of all gradients, 0 for none; eta: share of distillation in the loss; temperature: of both softmaxes in it;
    recompute: forget activations inside blocks and compute them again in the backward pass.
    """

    lr: float = 2e-5
    warmup: float = 0.02
    floor: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip: float = 1.0
    eta: float = 1 / 3
    temperature: float = 1.0
    recompute: bool = False

    def check(self, name: str) -> None:
        """
        Raises:
            UserError: a value outside its range.
        """
        ranges = {"lr": (0, 10), "warmup": (0, 1), "floor": (0, 1), "eta": (0, 1), "clip": (0, math.inf)}
        for field, (low, high) in ranges.items():
            if not low <= (value := getattr(self, field)) <= high:
                raise UserError(f"{name}:{field}={value} will not do: take a number from {low} to {high}")
        if self.temperature <= 0:
            raise UserError(f"{name}:temperature={self.temperature} will not do: it must be above 0")

    def lr_at(self, step: int, total: int) -> float:
        """Linear warmup, then a cosine to floor * lr. step counts from 0."""
        warm = math.ceil(self.warmup * total)
        if step < warm:
            return self.lr * (step + 1) / warm
        done = (step - warm) / max(1, total - warm)
        return self.lr * (self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2)

    @property
    def adam(self) -> dict[str, Any]:
        """What any of Adam's kin takes of these."""
        return {"lr": self.lr, "betas": (self.beta1, self.beta2), "eps": self.eps}
