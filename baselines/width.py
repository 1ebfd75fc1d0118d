"""Width: remove inner units and attention heads. Minitron (Muralidharan et al. 2024), arXiv
2407.14679, section 2.2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from methods import Cost, Does, Job, MethodInfo, Needs, Outcome, Removes
from methods.contract.axes import AXES
from methods.contract.ranges import CountOrZero, Share
from methods.model.smaller_folder import count_left, reader
from methods.workshop.pruning.activations import watched
from methods.workshop.pruning.holders import each_block, hold

Score = Callable[[Tensor], Tensor]
"""Scores of the inputs of a linear: float [sequences, seqlen, in] -> [sequences, seqlen, parts]."""


def head_norms(heads: int) -> Score:
    """Return the score of attention heads: the norm of the output of each."""
    return lambda x: x.unflatten(-1, (heads, -1)).norm(dim=-1)


@torch.inference_mode()
def importances(model: nn.Module, job: Job, scores: dict[str, Score]) -> list[dict[str, Tensor]]:
    """Return the importance of the parts of each block, float32 [parts] by linear.

    It is the root, over sequences, of the sum of the squared means over tokens.

    scores: what scores the inputs of each linear, by its name in a block.
    """
    out: list[dict[str, Tensor]] = []
    for i, block, states in each_block(model, job):
        sums: dict[str, Tensor] = {}
        seqlen = states.hidden[0].shape[1]

        def add(
            name: str, inputs: Tensor, sums: dict[str, Tensor] = sums, seqlen: int = seqlen
        ) -> None:
            x = inputs.float().reshape(-1, seqlen, inputs.shape[-1])
            squares = scores[name](x).mean(1).square().sum(0)
            sums[name] = sums[name] + squares if name in sums else squares

        with watched(block, scores, add):
            states.advance(i, block)
        out.append({name: total.sqrt().cpu() for name, total in sums.items()})
    return out


def best(importance: Sequence[Tensor], count: int) -> tuple[tuple[int, ...], ...]:
    """Return the most important parts of each block, in order. Of equal ones the first is kept."""
    return tuple(
        tuple(each.argsort(descending=True, stable=True)[:count].sort().values.tolist())
        for each in importance
    )


@dataclass(frozen=True, kw_only=True)
class Width:
    """Remove inner units of each MLP, and attention heads; what is left is an ordinary smaller
    model.

    drop: share of the units; heads: share of the heads of keys and values, or their number, each
    with the query heads that read it. Without it, the same share as of units.
    """

    name: ClassVar[str] = "width"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2407.14679",
        does=Does.REMOVES,
        removes=(Removes("units", ("drop",)), Removes("heads", ("heads", "drop"))),
        cost=Cost(passes=1),
    )
    drop: Share = "25%"
    heads: CountOrZero | Share | None = None

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        held = hold(model, job.source, job.compute)
        config, family = model.config.to_dict(), held.family  # type: ignore[operator, union-attr]
        shares = {"units": self.drop, "heads": self.drop if self.heads is None else self.heads}
        sizes, readers = dict[str, int](), dict[str, str]()
        left = count_left(shares, config)
        for name in left:
            sizes[name] = AXES[name].size(family, config)
            readers[name] = reader(family, AXES[name].keys(family)[0])
        if left.get("heads") == sizes.get("heads"):
            left.pop("heads", None)
        norms: dict[str, Score] = {readers["units"]: torch.abs}
        if "heads" in left:
            norms[readers["heads"]] = head_norms(family.size(AXES["heads"].keys(family)[0], config))
        found = importances(model, job, norms)
        kept = {}
        for name, count in left.items():
            # The query heads that read the same keys and values count together.
            kept[name] = best(
                [block[readers[name]].view(sizes[name], -1).sum(1) for block in found], count
            )
        notes = {name: {"of": sizes[name], "left": count} for name, count in left.items()}
        return Outcome(model, kept=kept, notes=notes)
