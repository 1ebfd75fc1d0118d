"""Experts: remove or merge experts of a mixture, by any of the published scores, from one pass of
observations. The default score is REAP (Lasby et al. 2025), arXiv 2510.13999."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from methods import Cost, Does, Job, MethodInfo, Needs, Outcome, Removes, UserError
from methods.contract.axes import AXES
from methods.contract.ranges import CountOrZero, Share
from methods.model.experts import Expert, ExpertList, experts_of
from methods.model.smaller_folder import count_left
from methods.model.targets import family_of
from methods.workshop.pruning.activations import Activations, replaced
from methods.workshop.pruning.expert_merging import around_best, by_output, merge
from methods.workshop.pruning.expert_scores import (
    SCORES,
    Comparing,
    Observing,
    Router,
    Seen,
    flatness,
)
from methods.workshop.pruning.holders import each_block


@dataclass(frozen=True, kw_only=True)
class Experts:
    """Remove or merge experts of each block of a mixture; what is left is an ordinary smaller
    mixture.

    drop: share of the experts of each block, such as 25%, or their number. merge: in place of drop,
    the share or number that is merged into others. by: of drop, the score; the lowest go. "reap":
    mean of weight times output norm; "frequency": tokens; "gate": sum of weights; "ean", "man",
    "msan": sum, mean and mean square of output norms; "aimer": how even the weights are; "removal":
    error of the block's experts without this one; "random": a control. Of merge: "hc", clusters of
    mean outputs, or "ream", groups around the best by reap with aligned units. Empty: reap or hc.
    """

    name: ClassVar[str] = "experts"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2510.13999",
        does=Does.REMOVES,
        removes=(Removes("experts", ("merge", "drop")),),
        cost=Cost(passes=3, whole_blocks=True),
    )
    drop: CountOrZero | Share = "25%"
    merge: CountOrZero | Share | None = None
    by: (
        Literal[
            "reap", "frequency", "gate", "ean", "man", "msan", "aimer", "removal", "random",
            "hc", "ream",
        ]
        | None
    ) = None  # fmt: skip

    def __post_init__(self) -> None:
        merges = self.merge is not None
        if merges and self.drop != type(self).drop:
            raise ValueError("drop and merge exclude each other: leave one of them out")
        if merges and self.by not in (None, *GROUPINGS):
            raise ValueError(f"by={self.by} is a score for drop: use by=hc or by=ream with merge")
        if not merges and self.by in GROUPINGS:
            raise ValueError(f"by={self.by} merges experts: use merge= in place of drop=")

    @torch.inference_mode()
    def apply(self, model: nn.Module, job: Job) -> Outcome:
        config = model.config.to_dict()  # type: ignore[operator, union-attr]
        family = family_of(config)
        share = self.drop if self.merge is None else self.merge
        left = count_left({"experts": share}, config)["experts"]
        if self.merge is not None and any(p.is_meta for p in model.parameters()):
            raise UserError("merge needs the whole model in memory: use drop in place of it")
        dice = torch.Generator().manual_seed(job.seed)
        kept: list[tuple[int, ...]] = []
        changed: set[str] = set()
        loads: list[list[int]] = []
        errors: list[float] = []
        for index, block, states in each_block(model, job):
            found = experts_of(block)
            assert found
            path, experts = found
            router = Router(block.get_submodule(family.dense[0]))
            everywhere = self.merge is not None
            seen = observe(block, path, experts, router, states, index, everywhere=everywhere)
            merged = dict[int, Expert]()
            if self.merge is None:
                best = highest(score(self.by or "reap", seen, experts, dice), left)
            else:
                best, merged = merge_all(self.by or "hc", seen, experts, left)
            kept.append(tuple(sorted(best)))
            after = ExpertList(merged.get(n, each) for n, each in enumerate(experts))
            comparing = Comparing(experts, after, router, kept[-1])
            with replaced(block, {path: comparing}):
                states.advance(index, block)
            for number, expert in merged.items():
                experts[number].load_state_dict(expert.state_dict())
                prefix = f"{family.blocks}.{index}.{path}.{number}"
                changed.update(f"{prefix}.{name}" for name in expert.state_dict())
            loads.append([int(count) for count in seen.count])
            errors.append(comparing.error / max(float(seen.energy), 1e-30))
        notes: dict[str, Any] = {
            "experts": {"of": AXES["experts"].size(family, config), "left": left},
            "tokens_per_expert": loads,
            "layer_error": [float(f"{error:.6g}") for error in errors],
        }
        return Outcome(model, frozenset(changed), notes, kept={"experts": tuple(kept)})


GROUPINGS = {"hc": by_output, "ream": around_best}
"""Ways to group the experts that are merged."""


def merge_all(
    by: str, seen: Seen, experts: ExpertList, left: int
) -> tuple[list[int], dict[int, Expert]]:
    """Return the experts that are left, the first of each group, and those of them that change: the
    mean of each group with several."""
    groups = GROUPINGS[by](seen, left)
    weighing = "frequency" if by == "hc" else "reap"
    shares = SCORES[weighing](seen).tolist()
    merged = {}
    for group in groups:
        if len(group) > 1:
            merged[group[0]] = merge(experts, group, shares, align=by == "ream")
    return [group[0] for group in groups], merged


def highest(scores: Tensor, count: int) -> list[int]:
    """Return the experts with the highest scores. Of equal scores the first."""
    best: list[int] = scores.argsort(descending=True, stable=True)[:count].tolist()
    return best


def score(by: str, seen: Seen, experts: ExpertList, dice: torch.Generator) -> Tensor:
    """Return the score of each expert of a block, [experts]: the lowest go first."""
    if by == "random":
        return torch.rand(len(experts), generator=dice)
    if by == "aimer":
        return -torch.tensor([flatness(matrices(expert)) for expert in experts])
    return SCORES[by](seen).cpu()


def matrices(expert: nn.Module) -> list[Tensor]:
    """Return the weights of the linears of an expert."""
    return [each for each in expert.parameters() if each.ndim == 2]


def observe(
    block: nn.Module,
    path: str,
    experts: ExpertList,
    router: Router,
    states: Activations,
    index: int,
    *,
    everywhere: bool = False,
) -> Seen:
    """Run all calibration tokens through a block, and return what its experts did.

    path: name of the experts in the block; everywhere: see `Observing`.
    """
    first = states.hidden[0]
    seen = Seen(len(experts), first.shape[-1], states.device)
    with replaced(block, {path: Observing(experts, router, seen, everywhere)}):
        for hidden in states.hidden:
            states.run(index, block, hidden)
    return seen
