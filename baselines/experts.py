"""Experts: remove, replace or merge experts of a mixture, by any of the published scores, from one
pass of observations. The default score is REAP (Lasby et al. 2025), arXiv 2510.13999."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from methods import Cost, Does, Job, MethodInfo, Needs, Outcome, Removes, UserError
from methods.contract.axes import AXES
from methods.contract.ranges import CountOrZero, Share
from methods.contract.rules import UncalibratedBy
from methods.model.constant_experts import OUTPUTS
from methods.model.experts import ConstantExpert, ExpertList, experts_of
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
from methods.workshop.pruning.holders import each_block, hold

Score = Literal[
    "reap", "frequency", "gate", "ean", "man", "msan", "aimer", "removal", "mone", "random"
]
GROUPINGS = {"hc": by_output, "ream": around_best}
"""Ways to group the experts that are merged."""
WEIGHTS_OF_MEAN = {"hc": "frequency", "ream": "reap"}
"""Score that weighs the experts of a group in its mean."""


@dataclass(frozen=True, kw_only=True)
class Experts:
    """Remove, replace or merge experts of each block of a mixture.

    drop: share of the experts of each block, such as 25%, or their number. replace, merge: in place
    of drop, the share or number whose output becomes their mean output, or that is merged into
    others. by: of drop and replace, the score; the lowest go. "reap": mean of weight times output
    norm; "frequency": tokens; "gate": sum of weights; "ean", "man", "msan": sum, mean and mean
    square of output norms; "aimer": how even the weights are; "removal": error of the block's
    experts without this one; "mone": sum of weights times deviation of the outputs; "random": a
    control. Of merge: "hc", clusters of mean outputs, or "ream", groups around the best by reap
    with aligned units. Empty: reap, mone with replace, hc with merge.
    """

    name: ClassVar[str] = "experts"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2510.13999",
        does=Does.REMOVES,
        removes=(Removes("experts", ("merge", "replace", "drop")),),
        rules=(UncalibratedBy("by", ("aimer", "random"), "random", unless=("replace",)),),
        cost=Cost(passes=3, whole_blocks=True),
    )
    drop: CountOrZero | Share = "25%"
    replace: CountOrZero | Share | None = None
    merge: CountOrZero | Share | None = None
    by: Score | Literal["hc", "ream"] | None = None

    def __post_init__(self) -> None:
        ways = [self.merge, self.replace, None if self.drop == type(self).drop else self.drop]
        if sum(way is not None for way in ways) > 1:
            raise ValueError("drop, replace and merge exclude each other: leave all but one out")
        merges = self.merge is not None
        if merges and self.by not in (None, *GROUPINGS):
            raise ValueError(f"by={self.by} is a score for drop: use by=hc or by=ream with merge")
        if not merges and self.by in GROUPINGS:
            raise ValueError(f"by={self.by} merges experts: use merge= in place of drop=")

    @torch.inference_mode()
    def apply(self, model: nn.Module, job: Job) -> Outcome:
        config = model.config.to_dict()  # type: ignore[operator, union-attr]
        family = family_of(config)
        share = next(way for way in (self.merge, self.replace, self.drop) if way is not None)
        left = count_left({"experts": share}, config)["experts"]
        notes: dict[str, Any] = {
            "experts": {"of": AXES["experts"].size(family, config), "left": left}
        }
        dice = torch.Generator().manual_seed(job.seed)
        if job.calibration is None:
            chosen = self._choose_without_text(model, job, left, dice)
            return Outcome(model, notes=notes, kept={"experts": chosen})
        if share != self.drop and any(p.is_meta for p in model.parameters()):
            raise UserError("replace and merge need the whole model in memory: use drop instead")
        kept: list[tuple[int, ...]] = []
        changed: set[str] = set()
        constants = {}
        loads: list[list[int]] = []
        errors: list[float] = []
        for index, block, states in each_block(model, job):
            path, experts = in_block(block)
            router = Router(block.get_submodule(family.dense[0]))
            merges = self.merge is not None
            seen = observe(block, path, experts, router, states, index, everywhere=merges)
            new: dict[int, nn.Module] = {}
            if self.merge is not None:
                best, new = merge_all(self.by or "hc", seen, experts, left)
            else:
                default = "reap" if self.replace is None else "mone"
                best = highest(score(self.by or default, seen, experts, dice), left)
            kept.append(tuple(sorted(best)))
            reachable: Sequence[int] = kept[-1]
            if self.replace is not None:
                reachable = range(len(experts))
                gone = [number for number in reachable if number not in best]
                means = seen.means.to(job.compute.dtype)
                new = {number: ConstantExpert(means[number]) for number in gone}
                rows = {name: p[gone] for name, p in router.module.named_parameters()}
                constants[index] = {OUTPUTS: means[gone], **rows}
            after = ExpertList(new.get(n, each) for n, each in enumerate(experts))
            comparing = Comparing(experts, after, router, reachable)
            with replaced(block, {path: comparing}):
                states.advance(index, block)
            if self.merge is not None:
                for number, expert in new.items():
                    experts[number].load_state_dict(expert.state_dict())
                    prefix = f"{family.blocks}.{index}.{path}.{number}"
                    changed.update(f"{prefix}.{name}" for name in expert.state_dict())
            loads.append([int(count) for count in seen.count])
            errors.append(comparing.error / max(float(seen.energy), 1e-30))
        notes["tokens_per_expert"] = loads
        notes["layer_error"] = [float(f"{error:.6g}") for error in errors]
        everything = {"experts": tuple(kept)}
        return Outcome(model, frozenset(changed), notes, kept=everything, constants=constants)

    def _choose_without_text(
        self, model: nn.Module, job: Job, left: int, dice: torch.Generator
    ) -> tuple[tuple[int, ...], ...]:
        """Return the experts of each block that are left, by a score that needs no text."""
        kept = []
        with hold(model, job.source, job.compute, by_expert=False) as held:
            for index in range(len(held.blocks)):
                with held.block(index) as block:
                    scores = score(self.by or "", None, in_block(block)[1], dice)
                kept.append(tuple(sorted(highest(scores, left))))
                job.progress.advance(index + 1, len(held.blocks))
        return tuple(kept)


def in_block(block: nn.Module) -> tuple[str, ExpertList]:
    """Return the name of the experts in a block of a mixture, and the experts."""
    found = experts_of(block)
    assert found
    return found


def merge_all(
    by: str, seen: Seen, experts: ExpertList, left: int
) -> tuple[list[int], dict[int, nn.Module]]:
    """Return the experts that are left, the first of each group, and those of them that change: the
    mean of each group with several."""
    groups = GROUPINGS[by](seen, left)
    shares = SCORES[WEIGHTS_OF_MEAN[by]](seen).tolist()
    merged: dict[int, nn.Module] = {}
    for group in groups:
        if len(group) > 1:
            merged[group[0]] = merge(experts, group, shares, align=by == "ream")
    return [group[0] for group in groups], merged


def highest(scores: Tensor, count: int) -> list[int]:
    """Return the experts with the highest scores. Of equal scores the first."""
    best: list[int] = scores.argsort(descending=True, stable=True)[:count].tolist()
    return best


def score(by: str, seen: Seen | None, experts: ExpertList, dice: torch.Generator) -> Tensor:
    """Return the score of each expert of a block, [experts]: the lowest go first.

    seen: what calibration text showed, None for a score that needs none.
    """
    if by == "random":
        return torch.rand(len(experts), generator=dice)
    if by == "aimer":
        return -torch.tensor([flatness(matrices(expert)) for expert in experts])
    assert seen
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
