"""Permute: order channels so that n:m keeps more. The permutation of RIA (Zhang et al. 2024), ICLR 2024, where it is free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from baselines.wanda import squared_norm
from methods import Cost, Job, MethodInfo, Needs, Outcome, Walk
from methods.ranges import Count
from methods.transforms.changes import Permutation
from methods.transforms.grouping import best_order, kept
from methods.transforms.wiring import Wiring

ROWS = 2**14
"""Largest number of rows of scores that decide an order."""


@dataclass(frozen=True, kw_only=True)
class Permute:
    """Order the channels so that n:m keeps more, where the permutation is free.

    There is one order for the residual stream, one for the inner units of each MLP, and one within each head, since these
    need nothing at run time. An order is chosen for what the pattern keeps of (|W| * ||X||)^2, each linear's own total
    being 1. residual, units, heads: which to permute; rounds: passes of linear assignment over the positions of a group.
    """

    name: ClassVar[str] = "permute"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="ICLR 2024", dense=True, transform=True, groups_only=True, cost=Cost(passes=2)
    )
    residual: bool = True
    units: bool = True
    heads: bool = True
    rounds: Count = 4

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        wiring = Wiring(model, job, self.name)
        if job.pattern.dense:
            return Outcome(model, notes={"kept": "no pattern, so no order is better than another"})
        scores = {}
        for visit in Walk(model, job, squared_norm):
            squares = visit.weight.float().square() * visit.stat  # [out, in]
            scores[visit.name] = squares / squares.sum().clamp(min=torch.finfo(torch.float32).tiny)
        flow, shares = wiring.flow, {}
        if self.residual:
            readers = [linear for _, _, linears in wiring.readers() for linear in linears]
            order, shares["residual"] = self._order([scores[r] for r in readers if r in scores], job)
            wiring.residual(Permutation(order))
        units, heads = [], []
        for block in wiring.blocks:
            if self.units and flow.units and (name := f"{block}.{flow.units[-1]}") in scores:
                order, share = self._order([scores[name]], job)
                wiring.units(block, Permutation(order))
                units.append(share)
            if self.heads and flow.values and (name := f"{block}.{flow.values[1]}") in scores:
                parts = scores[name].unflatten(1, (wiring.heads[1], wiring.heads[0] // wiring.heads[1], -1))
                if job.pattern.fits(parts.shape[-1]):
                    found = [self._order(parts[:, i].unbind(1), job) for i in range(parts.shape[1])]
                    wiring.values(block, Permutation(torch.stack([order for order, _ in found])))
                    heads += [share for _, share in found]
        shares |= {k: _mean(v) for k, v in (("units", units), ("heads", heads)) if v}
        return wiring.outcome(kept=shares)

    def _order(self, scores: Sequence[Tensor], job: Job) -> tuple[Tensor, list[float]]:
        """Return an order, and the share of the scores that the pattern keeps before and after."""
        rows = torch.cat(list(scores)).cpu()
        rows = rows[:: -(-len(rows) // ROWS)]
        n, m = job.pattern.n, job.pattern.m
        order = best_order(rows, n, m, self.rounds)
        total = float(rows.sum(dtype=torch.float64))
        before, after = (kept(rows, o, n, m) / total for o in (torch.arange(rows.shape[1]), order))
        return order, [round(before, 6), round(after, 6)]


def _mean(shares: list[list[float]]) -> list[float]:
    return [round(sum(each) / len(shares), 6) for each in zip(*shares, strict=True)]
