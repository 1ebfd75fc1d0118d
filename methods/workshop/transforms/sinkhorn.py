"""Orders of channels that are learned for n:m. Zou et al. 2025 (PermLLM), arXiv 2510.10136."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from methods.contract.pattern import Pattern
from methods.workshop.pruning.hessian import output_size

ITERATIONS = 5
"""Number of normalizations of the rows and columns of a soft permutation."""
SHARE = 4
"""Number of steps whose gradients take as many rows as a linear has."""


@dataclass(frozen=True)
class Reader:
    """A linear that reads the channels: its weight [out, in], and X^T X of its inputs, float32 [in,
    in]."""

    weight: Tensor
    gram: Tensor


def learn_order(
    readers: Sequence[Reader],
    start: Tensor,
    pattern: Pattern,
    *,
    steps: int,
    lr: float,
    block: int,
    seed: int,
) -> tuple[Tensor, list[float]]:
    """Return an order whose pruned linears err less, and the errors of the first order and of this
    one.

    The error is the mean over linears of ||X (W' - W)^T||^2 / ||X W^T||^2, where Wanda prunes W to
    W'. A step takes its gradient in the logits of a soft permutation of each block of channels,
    straight through the hard one, and multiplies each entry by a random number below 1, so that not
    all channels move at once. The order that the new logits harden to is taken if its error is
    less. If not, the next step is smaller.

    Args:
        start: first order, int64 [heads, width]: an order within each head of the inputs, or one
            head for all.
        lr: largest change of a logit in the first step. The order so far has logits of 1, and any
            other of 0.
        block: least number of channels that change places.
        seed: of the rows that a gradient takes, and of the random numbers.
    """
    size = block_size(start.shape[1], pattern.m, block)
    generator, device = torch.Generator().manual_seed(seed), readers[0].weight.device
    best = start.to(device).unflatten(1, (-1, size))  # [heads, blocks, size]
    eye = torch.eye(size, device=device).expand(*best.shape, -1)
    tiny = torch.finfo(torch.float32).tiny
    totals = [output_size(reader.weight.float(), reader.gram).clamp(min=tiny) for reader in readers]

    def error(order: Tensor) -> float:
        errors = [
            pruning_error(reader, order, pattern) / total
            for reader, total in zip(readers, totals, strict=True)
        ]
        return float(torch.stack(errors).mean())

    first = least = error(best)
    rate = lr
    for _ in range(steps):
        logits, hard = eye.clone().requires_grad_(), eye.clone().requires_grad_()
        for reader, total in zip(readers, totals, strict=True):
            out = len(reader.weight)
            rows = torch.randperm(out, generator=generator)[: -(-out // SHARE)].to(device)
            (pruning_error(reader, best, pattern, hard, rows) / total).backward()
        (gradient,) = torch.autograd.grad(doubly_stochastic(logits), logits, hard.grad)
        change = gradient * torch.rand(eye.shape, generator=generator).to(device)
        change /= change.abs().max().clamp(min=tiny)
        order = best.gather(-1, harden(doubly_stochastic(eye - rate * change)))
        if torch.equal(order, best):
            rate *= 1.5
        elif (found := error(order)) < least:
            best, least, rate = order, found, rate * 1.1
        else:
            rate *= 0.8
    return best.flatten(1).cpu(), [first, least]


def block_size(width: int, m: int, least: int) -> int:
    """Return the smallest whole number of groups of m, and at least a number of channels, that
    divides a width."""
    return min(s for s in range(m, width + 1, m) if width % s == 0 and s >= min(least, width))


def doubly_stochastic(logits: Tensor) -> Tensor:
    """Return a soft permutation by Sinkhorn's normalization of rows and columns, [..., n, n]."""
    for _ in range(ITERATIONS):
        logits = logits.log_softmax(-1).log_softmax(-2)
    return logits.exp()


def harden(soft: Tensor) -> Tensor:
    """Return the row that the best linear assignment gives to each column of soft permutations,
    int64 [..., n]."""
    columns = soft.detach().mT.flatten(0, -3).cpu().numpy()
    rows = [torch.from_numpy(linear_sum_assignment(matrix, maximize=True)[1]) for matrix in columns]
    return torch.stack(rows).view(soft.shape[:-1]).to(soft.device)


def pruning_error(
    reader: Reader,
    order: Tensor,
    pattern: Pattern,
    hard: Tensor | None = None,
    rows: Tensor | None = None,
) -> Tensor:
    """Return ||X (W' - W)^T||^2, where W' is W pruned by Wanda with its columns in an order.

    order: int64 [heads, blocks, size]. hard: permutations of the blocks, with a gradient, [heads,
    blocks, size, size].
    rows: rows of W that count; None for all.
    """
    heads, width = len(order), order[0].numel()
    times = reader.gram.shape[1] // (heads * width)
    starts = torch.arange(heads * times, device=order.device)[:, None] * width
    columns = (order.flatten(1).repeat_interleave(times, 0) + starts).flatten()
    weight = (reader.weight if rows is None else reader.weight[rows]).float()[:, columns]
    score = weight.abs() * reader.gram.diagonal()[columns].clamp(min=0).sqrt()
    if hard is None:
        mask = pattern.keep(score).float()
    else:
        matrix = hard.repeat_interleave(times, 0).flatten(0, 1)
        score = score / score.mean().clamp(min=torch.finfo(score.dtype).tiny)
        moved = torch.einsum("rki,kij->rkj", score.unflatten(1, matrix.shape[:2]), matrix).flatten(
            1
        )
        soft = moved.unflatten(1, (-1, pattern.m)).softmax(-1).flatten(1)
        kept = pattern.keep(moved.detach()) + (soft - soft.detach())
        mask = torch.einsum("rkj,kij->rki", kept.unflatten(1, matrix.shape[:2]), matrix).flatten(1)
    return output_size((weight * (mask - 1))[:, columns.argsort()], reader.gram)
