"""Merge experts of a mixture: groups of similar experts, and one expert in place of a group."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from scipy.cluster.hierarchy import cut_tree, linkage
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from methods.model.experts import Expert
from methods.workshop.pruning.expert_scores import SCORES, Seen

LARGEST_GROUP = 16
"""Number of experts that one may stand for in `around_best`: C of REAM."""

Group = tuple[int, ...]
"""Numbers of the experts that one takes the place of. The first keeps its row of the router."""
Hold = Callable[[int], AbstractContextManager[Expert]]
"""Holds the weights of an expert, by its number."""


def by_output(seen: Seen, left: int) -> list[Group]:
    """Return clusters of experts by average linkage of their mean outputs. The first expert of each
    has the most tokens.

    Source: Chen et al. 2024, HC-SMoE, arXiv 2410.08589.
    """
    # The sum over all tokens is as good as the mean.
    tree = linkage(seen.outputs.cpu().numpy(), method="average")
    labels = cut_tree(tree, n_clusters=left)[:, 0].tolist()
    counts = seen.count.tolist()
    groups = []
    for label in range(left):
        members = [number for number, each in enumerate(labels) if each == label]
        groups.append(tuple(sorted(members, key=lambda number: -counts[number])))
    return groups


def around_best(seen: Seen, left: int) -> list[Group]:
    """Return a group for each of the experts with the best score of REAP. From the best on, each
    takes those of the others that are most like it.

    Source: Jha et al. 2026, REAM, arXiv 2604.04356.
    """
    scores = SCORES["reap"](seen)
    order = scores.argsort(descending=True, stable=True).tolist()
    alike = _similarity(seen)
    free = set(order[left:])
    groups = []
    for centre in order[:left]:
        nearest = sorted(free, key=lambda number: -float(alike[centre, number]))
        taken = nearest[: LARGEST_GROUP - 1]
        free -= set(taken)
        groups.append((centre, *taken))
    # Those that no group has room for.
    for number in sorted(free):
        best = max(range(left), key=lambda i: float(alike[groups[i][0], number]))
        groups[best] += (number,)
    return groups


def _similarity(seen: Seen) -> Tensor:
    """Return how alike experts are, from 0 to 1: [experts, experts].

    It is the mean of two similarities: (1 + the mean cosine of outputs) / 2, and 1 - the distance
    of router logits, of which those of each expert have norm 1, over the largest distance.
    """
    tokens = seen.cosines.diagonal().max().clamp(min=1)
    outputs = (1 + seen.cosines / tokens) / 2
    sizes = seen.logits.diagonal().clamp(min=1e-30).sqrt()
    cosines = (seen.logits / torch.outer(sizes, sizes)).clamp(max=1)
    distances = (2 - 2 * cosines).sqrt()
    return (outputs + 1 - distances / distances.max().clamp(min=1e-30)) / 2


def merge(hold: Hold, group: Group, shares: Sequence[float], align: bool) -> Expert:
    """Return the weighted mean of the experts of a group. Two of them are in memory at a time.

    shares: weights, by expert of the model; align: reorder the units of each expert so that they
    fit those of the first.
    """
    total = sum(shares[number] for number in group)
    with hold(group[0]) as first:
        rows = unit_rows(first)
        out = copy.deepcopy(first).float()
        for parameter in out.parameters():
            parameter.zero_()
        for number in group:
            share = 1 / len(group)
            if total:
                share = shares[number] / total
            with nullcontext(first) if number == group[0] else hold(number) as expert:
                order = torch.arange(rows.shape[1], device=rows.device)
                if align and expert is not first:
                    # Unit order[u] of this expert takes the place of unit u of the first.
                    likeness = _units(first, rows) @ _units(expert, rows).T
                    found = linear_sum_assignment(likeness.cpu().numpy(), maximize=True)[1]
                    order = torch.from_numpy(found).to(rows.device)
                moved = torch.empty_like(rows.flatten())
                moved[rows.flatten()] = rows[:, order].flatten()
                _add(out, expert, share, moved, order)
        return out.to(_linears(first)[0].weight.dtype)


def unit_rows(expert: Expert) -> Tensor:
    """Return the outputs of the first linear that make each unit, int64 [2, units]: those of the
    gate and the factor.

    Some families store all gates and then all factors, others each gate beside its factor.
    """
    first, second = _linears(expert)
    count = first.weight.shape[0]
    probe = torch.linspace(0.5, 1, count, device=first.weight.device)[None].repeat(2, 1)
    probe[1, 1] += 0.5
    plain, other = expert.gated(probe)[:, 0]
    numbers = torch.arange(count, device=first.weight.device)
    if bool(plain != other):
        return numbers.view(-1, 2).T
    return numbers.view(2, second.weight.shape[1])


def _linears(expert: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    first, second = expert.children()
    assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
    return first, second


def _units(expert: nn.Module, rows: Tensor) -> Tensor:
    """Return the weights into and out of each unit, float32 [units, 3 hidden]."""
    first, second = _linears(expert)
    parts = (first.weight[rows[0]], first.weight[rows[1]], second.weight.T)
    return torch.cat(parts, 1).float()


def _add(out: nn.Module, expert: nn.Module, share: float, rows: Tensor, units: Tensor) -> None:
    """Add an expert to a sum, with the outputs of its first linear and the units in this order."""
    (first, second), (own, last) = _linears(out), _linears(expert)
    first.weight.add_(own.weight[rows], alpha=share)
    second.weight.add_(last.weight[:, units], alpha=share)
    if own.bias is not None:
        first.bias.add_(own.bias[rows], alpha=share)
        second.bias.add_(last.bias, alpha=share)
