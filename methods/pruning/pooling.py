"""What the processes that share a calibration have seen of a block's linears together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from methods.pruning.observer import Accumulate, Observer
from methods.pruning.sharing import Sharing
from methods.targets import dense_weight


class Pooled(NamedTuple):
    """Of the linears that this process changes the statistic and sample of all tokens; of all linears who changes them."""

    stats: dict[str, Tensor]
    samples: dict[str, Tensor]
    owners: dict[str, int]
    reached: dict[str, int]
    """Tokens of each linear of an expert."""
    few: list[str]
    """Of these, those with fewer than their inputs: their statistic is that of white noise, and they have no sample."""
    sampled: int
    """Rows of the largest sample, at any process."""


def pool(
    sharing: Sharing,
    linears: Mapping[str, nn.Module],
    observer: Observer,
    routed: Collection[str],
    accumulate: Accumulate,
    device: torch.device,
) -> Pooled:
    """Add up what each process has seen. Every process must call it. routed: linears of experts."""
    seen, samples_here = observer.statistics_by_input(), observer.samples_by_input()
    first = {
        name: observer.sources.get(name, name) for name in linears
    }  # an expert that no token reached has no source
    shapes = {name: dense_weight(module).shape for name, module in linears.items()}
    every = sharing.gather(
        [{n: observer.reached[n] for n in routed}, {n: len(rows) for n, rows in samples_here.items()}]
    )
    reached = {name: sum(tokens[name] for tokens, _ in every) for name in routed}
    few = [name for name, count in reached.items() if count < shapes[name][1]]
    owners = _owners(sharing, shapes, first, routed)
    stats: dict[str, Tensor] = {}
    samples: dict[str, Tensor] = {}
    sampled = 0
    for one in dict.fromkeys(first.values()):
        stat, rows = seen.pop(one, None), samples_here.pop(one, None)
        users = [name for name in linears if first[name] == one and name not in few]
        if not users:
            continue
        empty = torch.empty(0, shapes[one][1], device=device, dtype=torch.float32)
        counts = [sizes.get(one, 0) for _, sizes in every]
        at = {owners[name] for name in users}
        stat = sharing.add_up(accumulate(empty, None) if stat is None else stat, at)
        rows = sharing.join_rows(empty if rows is None else rows, counts, at)
        sampled = max(sampled, sum(counts))
        for name in users:
            if owners[name] == sharing.rank:
                stats[name], samples[name] = stat, rows
    for name in few:
        if owners[name] == sharing.rank:
            stats[name] = accumulate(torch.eye(shapes[name][1], device=device), None)
    return Pooled(stats, samples, owners, reached, few, sampled)


def _owners(
    sharing: Sharing, shapes: Mapping[str, torch.Size], first: Mapping[str, str], routed: Collection[str]
) -> dict[str, int]:
    """The process that changes each linear: one for those with the same input, whose Hessian is then factored once, and one
    for an expert. They are balanced by what SparseGPT takes: in^3 for each Hessian, and in^2 out for each linear."""
    pieces = {name: name.rpartition(".")[0] if name in routed else first[name] for name in shapes}
    costs = dict.fromkeys(pieces.values(), 0.0)
    for name, (rows, width) in shapes.items():
        costs[pieces[name]] += width**2 * (rows + width * (first[name] == name))
    by_piece = sharing.divide(costs)
    return {name: by_piece[piece] for name, piece in pieces.items()}
