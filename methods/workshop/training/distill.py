"""The loss of this project's trainings: cross-entropy, distillation from the dense model's logits
and hidden states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from methods.contract.errors import UserError
from methods.contract.ranges import Count, Fraction, NonNegative, Positive
from methods.workshop.training.compiled import blocks_of
from methods.workshop.training.loss import (
    CrossEntropy,
    Loss,
    head_of,
    subtract_targets_,
    sum_entropy,
)
from methods.workshop.training.settings import TrainingSettings

MASSIVE = 10.0
"""Ratio of a norm to the median norm above which a token of a sequence, or a channel of its other
tokens, is massive."""


@dataclass(frozen=True, kw_only=True)
class Settings(TrainingSettings):
    """Settings of a training with distillation, beside those of every training.

    eta: share of distillation in the loss; temperature: that of both softmaxes of the distillation;
    hidden: weight in the loss of the distance to the teacher's hidden states, 0 for none;
    hidden_every: number of blocks from one such state to the next, counted back from the last
    block.
    """

    eta: Fraction = 1 / 3
    temperature: Positive = 1.0
    hidden: NonNegative = 0.0
    hidden_every: Count = 1

    def loss(self) -> Loss:
        return Distillation(self.eta, self.temperature, self.hidden, self.hidden_every)


class Distillation(CrossEntropy):
    """eta T^2 KL(teacher || student) + (1 - eta) CE, and `hidden` times the distance of blocks'
    outputs.

    With p the teacher's and q the student's probabilities at temperature T, z the student's logits
    and y the next token, the gradient in z is  eta T (q - p) + (1 - eta) (softmax(z) - 1_y).

    CAST (arXiv 2509.25996) has eta = 1/3 and no temperature [p]; the square keeps the size of the
    gradient (Hinton et al. 2015, arXiv 1503.02531).
    """

    terms = ("ce", "kl")

    def __init__(
        self, eta: float, temperature: float = 1.0, hidden: float = 0.0, hidden_every: int = 1
    ) -> None:
        self.eta, self.temperature = eta, temperature
        self.weights = (1 - eta, eta)
        self.needs_logits = eta > 0
        self.blocks_every = hidden_every if hidden else 0
        self.blocks_weight = hidden

    def part(
        self, logits: Tensor, targets: Tensor, teacher: Tensor | None, needed: bool
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        if teacher is None:
            (ce,), gradient = super().part(logits, targets, None, needed)
            return (ce, ce.new_zeros(())), gradient
        eta, temperature = self.eta, self.temperature
        log_q = logits.log_softmax(-1)
        ce = sum_entropy(log_q, targets)
        log_p = (teacher / temperature).log_softmax(-1)
        log_qt = log_q if temperature == 1 else (logits / temperature).log_softmax(-1)
        p = log_p.exp()
        kl = temperature**2 * log_p.sub_(log_qt).mul_(p).sum()
        if not needed:
            return (ce, kl), None
        qt = log_q.exp_() if log_qt is log_q else log_qt.exp_()
        gradient = p.neg_().add_(qt).mul_(eta * temperature)
        q = log_q if log_qt is log_q else log_q.exp_()
        return (ce, kl), gradient.add_(subtract_targets_(q, targets), alpha=1 - eta)

    def of_block(self, student: Tensor, teacher: Tensor) -> Tensor:
        return distance(student, teacher)

    def require(self, student: nn.Module, teacher: nn.Module) -> None:
        super().require(student, teacher)
        shapes = [
            f"{len(blocks_of(model))} of {head_of(model).weight.shape[1]}"
            for model in (teacher, student)
        ]
        if self.blocks_every and shapes[0] != shapes[1]:
            raise UserError(
                f"hidden={self.blocks_weight} compares the outputs of blocks, and teacher and "
                f"student have different blocks ({' and '.join(shapes)} channels): leave hidden "
                "out"
            )


def _ordinary(squares: Tensor, dim: int) -> Tensor:
    median = squares.median(dim, keepdim=True).values
    return (squares <= MASSIVE**2 * median) | (median == 0)


class _Distance(torch.autograd.Function):
    """The distance, with its gradient as the only tensor that is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        teacher = teacher.float()
        squares = teacher.square()
        tokens = _ordinary(squares.sum(-1, keepdim=True), 1)  # [batch, tokens, 1]
        channels = _ordinary((squares * tokens).sum(1, keepdim=True), -1)  # [batch, 1, width]
        norms = (squares * channels).sum(-1, keepdim=True)
        weights = torch.where(tokens & (norms > 0), 1 / norms, 0.0)
        difference = (student.float() - teacher) * channels
        gradient = weights * difference
        ctx.gradient = gradient.to(student.dtype)
        return 0.5 * difference.mul_(gradient).sum()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        return ctx.gradient.mul_(outer[0]), None


def distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the sum over tokens of ||h - h_T||^2 / (2 ||h_T||^2), float32.

    Massive activations (Sun et al. 2024, arXiv 2402.17762) carry a bias, and would outweigh the
    rest. They are left out of difference and norm, by the teacher's states of each sequence: tokens
    whose norm is more than ten times the median of the tokens, then channels whose norm over the
    other tokens is more than ten times the median of the channels.

    Args:
        student, teacher: outputs of the same block [batch, tokens, width]. A gradient reaches the
            student only.
    """
    return _Distance.apply(student, teacher)  # type: ignore[no-any-return, no-untyped-call]
