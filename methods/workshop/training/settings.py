"""Settings of every training method, and the learning-rate schedule that follows from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from methods.contract.errors import UserError
from methods.contract.ranges import Beta, Fraction, LearningRate, NonNegative, Positive

if TYPE_CHECKING:
    from methods.workshop.training.loss import Loss


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Settings of every training method. Recipes give values by model size.

    lr: peak learning rate; relative_lr: peak learning rate in units of the root mean square of the
    targets' weights, 0 to use lr; warmup: share of the steps in which it rises; final_lr_ratio:
    share of the peak where the cosine ends; grad_clip: largest L2 norm of all gradients, 0 for no
    limit; recompute: forget activations inside blocks and compute them again in the backward pass;
    compile: torch.compile the blocks. "auto": on a CUDA device that has Triton.
    """

    lr: LearningRate = 2e-5
    relative_lr: Fraction = 0.0
    warmup: Fraction = 0.02
    final_lr_ratio: Fraction = 0.1
    beta1: Beta = 0.9
    beta2: Beta = 0.95
    eps: Positive = 1e-8
    grad_clip: NonNegative = 1.0
    recompute: bool = False
    compile: Literal["auto", "on", "off"] = "auto"

    def __post_init__(self) -> None:
        require_one_rate(self)

    def loss(self) -> Loss:
        """Return what the training minimizes: cross-entropy, unless a subclass returns another
        loss."""
        from methods.workshop.training.loss import CrossEntropy  # imports torch

        return CrossEntropy()

    def lr_at(self, step: int, total: int, peak: float) -> float:
        """Return the rate of a step, from 0: linear warmup to the peak, then a cosine to
        final_lr_ratio * peak."""
        warm = math.ceil(self.warmup * total)
        if step < warm:
            return peak * (step + 1) / warm
        done = (step - warm) / max(1, total - warm)
        return peak * (
            self.final_lr_ratio + (1 - self.final_lr_ratio) * (1 + math.cos(math.pi * done)) / 2
        )

    @property
    def adam(self) -> dict[str, Any]:
        """The arguments of an optimizer of the Adam family."""
        return {"lr": self.lr, "betas": (self.beta1, self.beta2), "eps": self.eps}


def require_one_rate(method: Any) -> None:
    """Raise ValueError if both learning rates of a method, lr and relative_lr, differ from their
    defaults."""
    if method.lr != type(method).lr and method.relative_lr != type(method).relative_lr:
        raise ValueError(
            f"lr={method.lr:g} and relative_lr={method.relative_lr:g} are two learning rates: "
            "give one"
        )


def require_trainable(dtype: str) -> None:
    """Raise UserError for float16, in which gradients vanish.

    A step's loss is divided by its tokens, a million in CAST's paper. A quarter of the gradients is
    then below the range of float16.
    """
    if dtype == "float16":
        raise UserError(
            "training in float16 loses small gradients: use --dtype bfloat16 or float32"
        )
