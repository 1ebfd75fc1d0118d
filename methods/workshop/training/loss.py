"""Losses of trainings: sums over tokens, computed without a whole [tokens, vocabulary] matrix in
memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from methods.contract.errors import UserError
from methods.model.logits import PLAIN, Finish, finish_of

LOGITS_BYTES = 256 * 2**20
"""Largest size of one model's logits in memory. A quarter of it makes a head of 262,144 tokens 1.5
times slower on a CPU."""
CARD_SHARE = 64
"""Divisor of a CUDA device's memory for the size of the logits, if that is larger. The float32
tensors take several times as much."""
PART_BYTES = {"cpu": 2**20}
"""Bytes of the float32 logits processed at a time, by device type. On a CPU they fit its cache; the
default is the size of the logits."""


class HeadWeights(NamedTuple):
    """An output head: its weight [vocabulary, width], its bias [vocabulary] if it has one, and what
    follows."""

    weight: Tensor
    bias: Tensor | None = None
    finish: Finish = PLAIN


class Outputs(NamedTuple):
    """Hidden states of some tokens [tokens, width], and the head [vocabulary, width] that makes
    logits of them."""

    hidden: Tensor
    head: Tensor
    bias: Tensor | None = None
    finish: Finish = PLAIN
    blocks: deque[Tensor] = deque(maxlen=0)  # noqa: RUF012
    """A teacher's outputs of blocks [batch, seqlen, width]. The student takes them out as it
    compares its own with them."""


class Loss:
    """Objective of a training: a weighted sum of terms, per token.

        class ReverseKL(Loss):
            terms, needs_logits = ("reverse_kl",), True

            def of_tokens(self, logits, targets, teacher):
                log_q, log_p = logits.log_softmax(-1), teacher.log_softmax(-1)
                return ((log_q.exp() * (log_q - log_p)).sum(),)

    A method that trains returns it from `loss()`, and the trainer does the rest.
    """

    terms: tuple[str, ...]
    """Names of the terms. Each is a column of the curve. A term "ce" also shows whether the
    training diverges."""
    weights: tuple[float, ...] = (1.0,)
    """Weight of each term."""
    needs_logits: bool = False
    """True if `of_tokens` reads the teacher's logits."""
    blocks_every: int = 0
    """Number of blocks from one whose output is compared to the next, counted back from the last. 0
    to compare none."""
    blocks_weight: float = 0.0
    """Weight of the sum of these comparisons."""

    def of_tokens(
        self, logits: Tensor, targets: Tensor, teacher: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Return the sum over tokens of each term. Autograd computes the gradient.

        Args:
            logits, teacher: float32 [tokens, vocabulary]. teacher: None, unless the loss
                `needs_logits`.
            targets: the next tokens, int64 [tokens].
        """
        raise NotImplementedError

    def of_block(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the sum over tokens of the comparison of a block's outputs [batch, tokens,
        width]."""
        raise NotImplementedError

    def require(self, student: nn.Module, teacher: nn.Module) -> None:
        """Raise UserError if the outputs of these models cannot be compared."""
        sizes = tuple(len(head_of(model).weight) for model in (teacher, student))
        if sizes[0] != sizes[1]:
            raise UserError(
                "teacher and student have different vocabularies ({} and {})".format(*sizes)
            )

    def part(
        self, logits: Tensor, targets: Tensor, teacher: Tensor | None, needed: bool
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Return the terms as `of_tokens`, and the loss's gradient in the logits if it is needed.

        A loss that knows its gradient overrides this, and needs less memory than autograd.
        """
        if not needed:
            return self.of_tokens(logits, targets, teacher), None
        with torch.enable_grad():
            logits = logits.detach().requires_grad_()
            terms = self.of_tokens(logits, targets, teacher)
            (gradient,) = torch.autograd.grad(self.weigh(terms), logits)
        # Contiguous, because the caller writes into it.
        return tuple(term.detach() for term in terms), gradient.contiguous()

    def weigh(self, terms: Iterable[Tensor]) -> Tensor:
        """Return the weighted sum of terms."""
        total: Tensor = sum(weight * term for weight, term in zip(self.weights, terms, strict=True))  # type: ignore[assignment]
        return total

    def __call__(
        self,
        student: Outputs,
        targets: Tensor,
        teacher: Outputs | None = None,
        scale: float = 1.0,
        *,
        logits_bytes: int | None = None,
        part_bytes: int | None = None,
    ) -> tuple[Tensor, ...]:
        """Return the loss of the tokens times `scale`, and the sum over tokens of each term.

        Args:
            targets: int64 [tokens].
            logits_bytes: largest size of one model's logits in memory; None for what suits the
                device.
            part_bytes: size of the float32 logits processed at a time.
        """
        hidden, head, bias, finish, _ = student
        if not self.needs_logits:
            teacher = None
        logits_bytes = logits_bytes or largest_logits(hidden.device)
        part_bytes = part_bytes or PART_BYTES.get(hidden.device.type, logits_bytes)
        return _OverTokens.apply(  # type: ignore[no-any-return, no-untyped-call]
            hidden, head, bias, targets, teacher, finish, self, scale, logits_bytes, part_bytes
        )

    @property
    def needs_teacher(self) -> bool:
        """True if the loss compares the student with a teacher."""
        return self.needs_logits or self.blocks_every > 0

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the curve's columns: the loss, its terms, and the comparisons of hidden states
        if it makes any."""
        names = ("loss", *self.terms)
        if self.blocks_every:
            return (*names, "hidden")
        return names


class CrossEntropy(Loss):
    """Cross-entropy of the next token, in nats."""

    terms: tuple[str, ...] = ("ce",)

    def part(
        self, logits: Tensor, targets: Tensor, teacher: Tensor | None, needed: bool
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        log_q = logits.log_softmax(-1)
        ce = sum_entropy(log_q, targets)
        return (ce,), subtract_targets_(log_q.exp_(), targets) if needed else None


def sum_entropy(log_q: Tensor, targets: Tensor) -> Tensor:
    """Return the sum over tokens of -log q of the next token."""
    return -log_q.gather(1, targets[:, None]).sum()


def subtract_targets_(q: Tensor, targets: Tensor) -> Tensor:
    """Subtract 1 from each token's probability of its next token, in place. This is the gradient of
    cross-entropy."""
    q[torch.arange(len(targets), device=targets.device), targets] -= 1
    return q


def head_of(model: nn.Module) -> HeadWeights:
    """Return the output head."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    return HeadWeights(head.weight, getattr(head, "bias", None), finish_of(model))


def largest_logits(device: torch.device) -> int:
    """Return the largest size in bytes of one model's logits in the memory of a device."""
    if device.type != "cuda":
        return LOGITS_BYTES
    return max(
        LOGITS_BYTES, int(torch.cuda.get_device_properties(device).total_memory) // CARD_SHARE
    )


def _products(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    products = hidden @ weight.T
    return products if bias is None else products.add_(bias)


class _OverTokens(torch.autograd.Function):
    """Loss and gradients in one pass, some rows of logits at a time.

    Logits are the head's products after its finish, f(h W^T + b); the gradient goes back through f.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        teacher: Outputs | None,
        finish: Finish,
        loss: Loss,
        scale: float,
        logits_bytes: int,
        part_bytes: int,
    ) -> tuple[Tensor, ...]:
        need_hidden, need_head, need_bias = ctx.needs_input_grad[:3]
        needed = need_hidden or need_head or need_bias
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_head = torch.zeros_like(head, dtype=torch.float32) if need_head else None
        if bias is not None and need_bias:
            grad_bias = torch.zeros_like(bias, dtype=torch.float32)
        else:
            grad_bias = None
        sums = [hidden.new_zeros((), dtype=torch.float32) for _ in loss.terms]
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        w = head.to(dtype)
        b_ = None if bias is None else bias.to(dtype)
        teacher_head = teacher.head.to(dtype) if teacher else None
        teacher_bias = teacher.bias.to(dtype) if teacher and teacher.bias is not None else None
        width = head.shape[0]
        rows = max(1, logits_bytes // (dtype.itemsize * width))
        part = max(1, part_bytes // (4 * width))
        with torch.autocast(kind, enabled=False):
            for a in range(0, len(hidden), rows):
                h, y = hidden[a : a + rows].to(dtype), targets[a : a + rows]
                logits = _products(h, w, b_)
                teacher_logits = None
                if teacher is not None and teacher_head is not None:
                    teacher_logits = _products(
                        teacher.hidden[a : a + rows].to(dtype), teacher_head, teacher_bias
                    )
                for b in range(0, len(h), part):
                    at = slice(b, b + part)
                    other = None
                    if teacher is not None and teacher_logits is not None:
                        other = teacher.finish.apply(teacher_logits[at].float())
                    z = finish.apply(logits[at].float())
                    terms, gradient = loss.part(z, y[at], other, needed)
                    for total, term in zip(sums, terms, strict=True):
                        total += term
                    if gradient is not None:  # in place of the products, which are not needed again
                        logits[at] = finish.backward_(gradient.mul_(scale), z)
                if grad_hidden is not None:
                    grad_hidden[a : a + rows] = logits @ w
                if grad_head is not None:
                    grad_head += logits.T @ h
                if grad_bias is not None:
                    grad_bias += logits.sum(0)
        if grad_head is not None:
            grad_head = grad_head.to(head.dtype)
        if grad_bias is not None and bias is not None:
            grad_bias = grad_bias.to(bias.dtype)
        ctx.gradients = (grad_hidden, grad_head, grad_bias)
        ctx.mark_non_differentiable(*sums)
        return scale * loss.weigh(sums), *sums

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        grads = [None if g is None else g.mul_(outer[0].to(g.dtype)) for g in ctx.gradients]
        del ctx.gradients
        return (*grads, *[None] * 7)
