"""Cross-entropy and distillation losses from hidden states, without a whole [tokens, vocabulary] matrix in memory."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor

from methods.logits import PLAIN, Finish

LOGITS_BYTES = 256 * 2**20
"""Largest size of one model's logits in memory. A quarter of it makes a head of 262,144 tokens 1.5 times slower on a CPU."""
CARD_SHARE = 64
"""Divisor of a CUDA device's memory for the size of the logits, if that is larger. The float32 tensors take several times as much."""
PART_BYTES = {"cpu": 2**20}
"""Bytes of the float32 logits processed at a time, by device type. On a CPU they fit its cache; the default is the size of the logits."""


class HeadWeights(NamedTuple):
    """An output head: its weight [vocabulary, width], its bias [vocabulary] if it has one, and what follows."""

    weight: Tensor
    bias: Tensor | None = None
    finish: Finish = PLAIN


class Teacher(NamedTuple):
    """The teacher's hidden states of the same tokens [tokens, width'], and its head [vocabulary, width']."""

    hidden: Tensor
    head: Tensor
    bias: Tensor | None = None
    finish: Finish = PLAIN
    blocks: deque[Tensor] = deque(maxlen=0)  # noqa: RUF012
    """Outputs of blocks [batch, seqlen, width], which the student takes out as it compares its own with them."""


def _part(
    logits: Tensor, y: Tensor, teacher_logits: Tensor | None, eta: float, temperature: float, needed: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the sums of CE and T^2 KL over some tokens, and the gradient in the logits, float32 [tokens, vocabulary]."""
    z = logits.float()
    log_q = z.log_softmax(-1)
    ce = -log_q.gather(1, y[:, None]).sum()
    kl = ce.new_zeros(())
    kl_gradient = None  # eta T (q_T - p)
    if teacher_logits is not None:
        log_p = (teacher_logits.float() / temperature).log_softmax(-1)
        log_qt = log_q if temperature == 1 else (z / temperature).log_softmax(-1)
        p = log_p.exp()
        kl = temperature**2 * log_p.sub_(log_qt).mul_(p).sum()
        if needed:
            qt = log_q.exp_() if log_qt is log_q else log_qt.exp_()
            kl_gradient = p.neg_().add_(qt).mul_(eta * temperature)
    if not needed:
        return ce, kl, None
    q = log_q if kl_gradient is not None and temperature == 1 else log_q.exp_()
    q[torch.arange(len(y), device=y.device), y] -= 1
    return ce, kl, q if kl_gradient is None else kl_gradient.add_(q, alpha=1 - eta)  # without a teacher eta is 0


def largest_logits(device: torch.device) -> int:
    """Return the largest size in bytes of one model's logits in the memory of a device."""
    if device.type != "cuda":
        return LOGITS_BYTES
    return max(LOGITS_BYTES, int(torch.cuda.get_device_properties(device).total_memory) // CARD_SHARE)


def _products(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    products = hidden @ weight.T
    return products if bias is None else products.add_(bias)


class _Loss(torch.autograd.Function):
    """Loss and gradients in one pass, some rows of logits at a time.

    Logits are the head's products after its finish, f(h W^T + b); the gradient goes back through f.
    With p the teacher's and q the student's probabilities at temperature T, z the student's logits and y the next
    token, the loss of a token is  eta T^2 KL(p || q) + (1 - eta) CE(z, y), and its gradient in z
    eta T (q - p) + (1 - eta) (softmax(z) - 1_y).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        teacher: Teacher | None,
        finish: Finish,
        eta: float,
        temperature: float,
        scale: float,
        logits_bytes: int,
        part_bytes: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        need_hidden, need_head, need_bias = ctx.needs_input_grad[:3]
        needed = need_hidden or need_head or need_bias
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_head = torch.zeros_like(head, dtype=torch.float32) if need_head else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and need_bias else None
        ce = hidden.new_zeros((), dtype=torch.float32)
        kl = hidden.new_zeros((), dtype=torch.float32)
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
                if teacher is not None and teacher_head is not None and eta:
                    teacher_logits = _products(teacher.hidden[a : a + rows].to(dtype), teacher_head, teacher_bias)
                for b in range(0, len(h), part):
                    at = slice(b, b + part)
                    other = None
                    if teacher is not None and teacher_logits is not None:
                        other = teacher.finish.apply(teacher_logits[at].float())
                    z = finish.apply(logits[at].float())
                    ce_part, kl_part, gradient = _part(z, y[at], other, eta, temperature, needed)
                    ce += ce_part
                    kl += kl_part
                    if gradient is not None:  # in place of the products, which are not needed again
                        logits[at] = finish.backward_(gradient.mul_(scale), z)
                if grad_hidden is not None:
                    grad_hidden[a : a + rows] = logits @ w
                if grad_head is not None:
                    grad_head += logits.T @ h
                if grad_bias is not None:
                    grad_bias += logits.sum(0)
        ctx.gradients = (
            grad_hidden,
            grad_head if grad_head is None else grad_head.to(head.dtype),
            grad_bias if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
        )
        total = scale * (eta * kl + (1 - eta) * ce)
        ctx.mark_non_differentiable(ce, kl)
        return total, ce, kl

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
        grads = [None if g is None else g.mul_(outer[0].to(g.dtype)) for g in ctx.gradients]
        del ctx.gradients
        return (*grads, *[None] * 8)


def loss(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    teacher: Teacher | None = None,
    *,
    bias: Tensor | None = None,
    finish: Finish = PLAIN,
    eta: float = 0.0,
    temperature: float = 1.0,
    scale: float = 1.0,
    logits_bytes: int | None = None,
    part_bytes: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss, the sum of CE and the sum of T^2 KL over tokens, in nats.

    The loss is scale * sum over tokens of eta T^2 KL(teacher || student) + (1 - eta) CE.

    Args:
        hidden: [tokens, width], the input of the head; head: [vocabulary, width]; targets: int64 [tokens].
        bias: the head's, [vocabulary]; finish: what follows the head.
        eta: share of the distillation; 0 without a teacher.
        logits_bytes: largest size of one model's logits in memory; None for what suits the device.
        part_bytes: size of the float32 logits processed at a time.

    CAST (arXiv 2509.25996) has eta = 1/3 and no temperature [p]; the square keeps the size of the gradient (Hinton et
    al. 2015, arXiv 1503.02531).
    """
    if teacher is None:
        eta = 0.0
    logits_bytes = logits_bytes or largest_logits(hidden.device)
    part_bytes = part_bytes or PART_BYTES.get(hidden.device.type, logits_bytes)
    return _Loss.apply(hidden, head, bias, targets, teacher, finish, eta, temperature, scale, logits_bytes, part_bytes)  # type: ignore[no-any-return, no-untyped-call]
