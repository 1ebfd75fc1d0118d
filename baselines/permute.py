"""Permute: order channels so that n:m keeps more. RIA (Zhang et al. 2024, ICLR 2024) and PermLLM
(arXiv 2510.10136)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from baselines.wanda import squared_norm
from methods import Cost, Does, Job, MethodInfo, Needs, Outcome, Walk
from methods.contract.ranges import Count, CountOrZero, Positive
from methods.contract.rules import GroupsOnly, TurnsBasis
from methods.model.targets import dense_weight
from methods.workshop.pruning.hessian import add_gram, symmetric
from methods.workshop.transforms.changes import Permutation
from methods.workshop.transforms.column_order import best_order, kept
from methods.workshop.transforms.sinkhorn import Reader, learn_order
from methods.workshop.transforms.wiring import Wiring

ROWS = 2**14
"""Largest number of rows of scores that decide an order."""
Figures = dict[str, defaultdict[str, list[list[float]]]]
"""Figures of the notes: pairs of before and after, by name and by the part that is permuted."""


@dataclass(frozen=True, kw_only=True)
class Permute:
    """Order the channels so that n:m keeps more, where the permutation is free.

    There is one order for the residual stream, one for the inner units of each MLP, and one within
    each head, since these need nothing at run time. An order is chosen to keep most of
    (|W| * ||X||)^2 under the pattern, as a share of each linear's total. residual, units, heads:
    whether to permute them. rounds: passes of linear assignment over the positions of a group.

    With steps a search by gradients starts from this order, as in PermLLM. It lowers the error that
    Wanda makes in the linears that read the channels. steps: number of steps, 0 for none. lr: size
    of the first step. block: smallest number of neighboring channels that change places.
    """

    name: ClassVar[str] = "permute"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="ICLR 2024", does=Does.KEEPS_FUNCTION, rules=(TurnsBasis("residual"), GroupsOnly()),
        cost=Cost(passes=2), presets={"learned": {"steps": 200}},
    )  # fmt: skip
    residual: bool = True
    units: bool = True
    heads: bool = True
    rounds: Count = 4
    steps: CountOrZero = 0
    lr: Positive = 1.0
    block: Count = 64

    def __post_init__(self) -> None:
        if (self.lr, self.block) != (type(self).lr, type(self).block) and not self.steps:
            raise ValueError("lr and block are those of steps: leave them out, or add steps")

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        wiring = Wiring(model, job, self.name)
        if job.pattern.dense:
            return Outcome(model, notes={"kept": "no pattern, so no order is better than another"})
        flow = wiring.flow
        stream: set[str] = set()
        if self.residual:
            stream = {r for _, _, linears in wiring.readers() for r in linears} & set(job.targets)
        units = {f"{b}.{flow.units[-1]}": b for b in wiring.blocks if self.units and flow.units}
        values = {f"{b}.{flow.values[1]}": b for b in wiring.blocks if self.heads and flow.values}
        stride, seen = (
            -(-sum(len(dense_weight(model.get_submodule(name))) for name in stream) // ROWS),
            0,
        )
        rows, readers = [], []
        found: Figures = {"kept": defaultdict(list), "error": defaultdict(list)}
        for visit in Walk(model, job, add_gram if self.steps else squared_norm):
            name, weight = visit.name, visit.weight
            norms = symmetric(visit.stat).diagonal() if self.steps else visit.stat
            squares = weight.float().square() * norms  # [out, in]
            scores = squares / squares.sum().clamp(min=torch.finfo(torch.float32).tiny)
            reader = [Reader(weight, visit.stat)] if self.steps else []
            if name in stream:
                rows.append(scores[-seen % stride :: stride].cpu())
                seen += len(scores)
                readers += reader
            elif name in units:
                wiring.units(units[name], self._order("units", [scores], reader, job, found))
            elif name in values:
                heads, groups = wiring.heads
                # [out, groups, heads of a group, width]
                parts = scores.unflatten(1, (groups, heads // groups, -1))
                if job.pattern.fits(parts.shape[-1]):
                    each = [part.flatten(0, 1) for part in parts.permute(1, 2, 0, 3)]
                    wiring.values(values[name], self._order("heads", each, reader, job, found))
        if rows:
            wiring.residual(self._order("residual", [torch.cat(rows)], readers, job, found))
        return wiring.outcome(**_means(found))

    def _order(
        self,
        part: str,
        scores: Sequence[Tensor],
        readers: Sequence[Reader],
        job: Job,
        found: Figures,
    ) -> Permutation:
        """Return an order for each tensor of scores [rows, width].

        Add to `found` the share of the scores that the pattern keeps, and the error of a search.
        """
        pattern = job.pattern
        n, m = pattern.units
        scores = [rows[:: -(-len(rows) // ROWS)].cpu() for rows in scores]
        # Pairs of neighbors change places as one.
        units = [best_order(pattern.per_unit(rows), n, m, self.rounds) for rows in scores]
        inside = torch.arange(pattern.unit)
        orders = torch.stack([(o[:, None] * pattern.unit + inside).flatten() for o in units])
        if self.steps:
            orders, errors = learn_order(
                readers,
                orders,
                pattern,
                steps=self.steps,
                lr=self.lr,
                block=self.block,
                seed=job.seed,
            )
            found["error"][part].append(errors)
        for rows, order in zip(scores, orders, strict=True):
            total = float(rows.sum(dtype=torch.float64))
            sums = []
            for ordered in (rows, rows[:, order]):
                sums.append(kept(pattern.per_unit(ordered), n, m) / total if total else 1.0)
            found["kept"][part].append(sums)
        return Permutation(orders if part == "heads" else orders[0])


def _means(
    found: Mapping[str, Mapping[str, list[list[float]]]],
) -> dict[str, dict[str, list[float]]]:
    """Return the mean of each figure before and after, by name and part."""
    means: dict[str, dict[str, list[float]]] = {}
    for name, parts in found.items():
        for part, each in parts.items():
            figures = [round(sum(x) / len(x), 6) for x in zip(*each, strict=True)]
            means.setdefault(name, {})[part] = figures
    return means
