"""An order of columns in which n:m keeps most: the channel permutation of RIA. Zhang et al. 2024,
ICLR 2024, section 4.2."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

CHUNK = 2**24
"""Number of values that are compared at a time."""


def best_order(scores: Tensor, n: int, m: int, rounds: int) -> Tensor:
    """Return an order of the columns, int64 [width], in which the n largest of every m scores have
    a large sum.

    First the columns are dealt to the groups by their total, as the paper's heuristic allocation
    does. Then, position by position, one column is taken out of each group, and all are given back
    by the best linear assignment. The order of the columns is kept if no other is better.

    scores: non-negative float [rows, width]. rounds: passes over the m positions.
    """
    width = scores.shape[1]
    start = torch.arange(width)
    dealt = scores.sum(0).argsort(descending=True, stable=True).view(m, -1).clone()
    dealt[1::2] = dealt[1::2].flip(-1)  # every second deal goes back, so that totals are even
    groups = dealt.T.contiguous()  # [groups, m]
    best, order = kept(scores, n, m), start
    for _ in range(rounds):
        for position in range(m):
            groups = _reassign(scores, groups, position, n)
        total = kept(scores[:, groups.flatten()], n, m)
        if total <= best:
            break
        best, order = total, groups.flatten().clone()
    return order


def kept(scores: Tensor, n: int, m: int) -> float:
    """Return the sum of the n largest of every m scores [rows, width]."""
    return float(scores.unflatten(1, (-1, m)).topk(n, -1).values.sum(dtype=torch.float64))


def _reassign(scores: Tensor, groups: Tensor, position: int, n: int) -> Tensor:
    """Give the columns at one position of all groups to the groups in which they add most."""
    others = torch.cat([groups[:, :position], groups[:, position + 1 :]], 1)
    free = groups[:, position]
    gain = torch.zeros(len(free), len(groups), dtype=torch.float64)
    rows = max(1, CHUNK // gain.numel())
    for part in scores.split(rows):
        # With a column x, a group keeps the n - 1 largest of the others, and the larger of x and
        # the n-th.
        nth = part[:, others].topk(n, -1).values[..., -1]  # [rows, groups]
        gain += torch.maximum(part[:, free, None], nth[:, None]).sum(0)
    chosen, target = linear_sum_assignment(gain.numpy(), maximize=True)
    out = groups.clone()
    out[torch.from_numpy(target), position] = free[torch.from_numpy(chosen)]
    return out
