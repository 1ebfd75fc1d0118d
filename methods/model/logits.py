"""The steps from a head's products to a model's logits: some families cap or divide them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from methods.model.families import FAMILIES


@dataclass(frozen=True)
class Finish:
    """Logits of a head's products x: cap * tanh(x / cap), x / divisor, or x if neither is set."""

    cap: float | None = None
    divisor: float | None = None

    def apply(self, x: Tensor) -> Tensor:
        """Return the logits of products x, of any shape."""
        if self.divisor is not None:
            x = x / self.divisor
        if self.cap is None:
            return x
        return torch.tanh(x / self.cap) * self.cap

    def backward_(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """Turn the gradient in the logits into that in x, in place."""
        if self.cap is not None:
            gradient.mul_(1 - (logits / self.cap).square_())
        if self.divisor is None:
            return gradient
        return gradient.div_(self.divisor)


PLAIN = Finish()


def finish_of(model: nn.Module) -> Finish:
    """Return the finish of a model, by its family and config."""
    config: Any = getattr(model, "config", None)
    family = FAMILIES.get(getattr(config, "model_type", ""))
    steps = family.logits if family else {}
    return Finish(**{step: getattr(config, value, None) for step, value in steps.items()})


class Head(nn.Module):
    """A model's output head and its finish, from states [..., hidden] to logits [...,
    vocabulary]."""

    def __init__(self, linear: nn.Module, finish: Finish) -> None:
        super().__init__()
        self.linear, self.finish = linear, finish

    @property
    def weight(self) -> Tensor:
        """[vocabulary, hidden]"""
        weight: Tensor = self.linear.weight  # type: ignore[assignment]
        return weight

    def forward(self, states: Tensor) -> Tensor:
        return self.finish.apply(self.linear(states))


def head_of(model: nn.Module) -> nn.Module:
    """Return the module from a model's last hidden states to its logits. That is its own head if
    nothing follows it."""
    linear: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
    finish = finish_of(model)
    return linear if finish == PLAIN else Head(linear, finish)
