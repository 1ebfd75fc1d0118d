"""Experts: remove, replace or merge experts of a mixture, by any of the published scores, from one
pass of observations. The default score is REAP (Lasby et al. 2025), arXiv 2510.13999."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from methods import Cost, Does, Job, MethodInfo, Needs, Outcome, Removes, UserError
from methods.contract.axes import AXES
from methods.contract.ranges import CountOrZero, Share
from methods.contract.rules import UncalibratedBy
from methods.model.constant_experts import OUTPUTS
from methods.model.experts import ConstantExpert, ExpertList
from methods.model.smaller_folder import count_left
from methods.model.targets import family_of
from methods.workshop.pruning.activations import Activations, batch_of, replaced
from methods.workshop.pruning.expert_merging import around_best, by_output, merge
from methods.workshop.pruning.expert_scores import SCORES, Everywhere, Router, Seen, flatness
from methods.workshop.pruning.holders import InMemory, hold
from methods.workshop.pruning.observed_experts import ObservedPass, in_block, in_turn
from methods.workshop.pruning.observer import Stop

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
        cost=Cost(passes=3),
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
        without_text = self._scores_without_text(model, job)
        if job.calibration is None:
            chosen = tuple(tuple(sorted(highest(each, left))) for each in without_text)
            return Outcome(model, notes=notes, kept={"experts": chosen})
        if share != self.drop and any(p.is_meta for p in model.parameters()):
            way = "replace" if self.merge is None else "merge"
            raise UserError(
                f"experts:{way}={share} needs the whole model in memory, and this one is streamed: "
                "raise --max-memory on a machine with room for it, or use experts:drop="
            )
        kept: list[tuple[int, ...]] = []
        changed: set[str] = set()
        constants = {}
        loads: list[list[int]] = []
        errors: list[float] = []
        held = hold(model, job.source, job.compute)
        states = start(held, job)
        with held:
            for index, block in enumerate(held.blocks):
                path, experts = in_block(block)
                tokens = observe(
                    held,
                    index,
                    states,
                    removal=self.by == "removal",
                    everywhere=self.merge is not None,
                )
                seen, router = tokens.seen, tokens.router
                best, new = self._choose(seen, experts, left, without_text[index:])
                kept.append(tuple(sorted(best)))
                reachable: Sequence[int] = kept[-1]
                if self.replace is not None:
                    reachable = range(len(experts))
                    gone = [number for number in reachable if number not in best]
                    means = seen.means.to(job.compute.dtype)
                    new = {number: ConstantExpert(means[number]) for number in gone}
                    rows = {name: p[gone] for name, p in router.module.named_parameters()}
                    constants[index] = {OUTPUTS: means[gone], **rows}
                with in_turn(held, index) as (_, each):
                    after = ((number, new.get(number, expert)) for number, expert in each)
                    error = tokens.error(after, reachable)
                if self.merge is not None:
                    for number, expert in new.items():
                        experts[number].load_state_dict(expert.state_dict())
                        prefix = f"{family.blocks}.{index}.{path}.{number}"
                        changed.update(f"{prefix}.{name}" for name in expert.state_dict())
                loads.append([int(count) for count in seen.count])
                errors.append(error / max(float(seen.energy), 1e-30))
                job.progress.advance(index + 1, len(held.blocks))
        notes["tokens_per_expert"] = loads
        notes["layer_error"] = [float(f"{error:.6g}") for error in errors]
        everything = {"experts": tuple(kept)}
        return Outcome(model, frozenset(changed), notes, kept=everything, constants=constants)

    def _choose(
        self, seen: Seen, experts: ExpertList, left: int, without_text: Sequence[Tensor]
    ) -> tuple[list[int], dict[int, nn.Module]]:
        """Return the experts of a block that are left, and those of them that merging changes.

        without_text: the scores of this block and of the next ones if they need no text.
        """
        if self.merge is not None:
            return merge_all(self.by or "hc", seen, experts, left)
        if without_text:
            return highest(without_text[0], left), {}
        default = "reap" if self.replace is None else "mone"
        return highest(SCORES[self.by or default](seen).cpu(), left), {}

    def _scores_without_text(self, model: nn.Module, job: Job) -> list[Tensor]:
        """Return the scores of the experts of each block, [experts], if they need no text."""
        if self.by not in ("aimer", "random"):
            return []
        dice = torch.Generator().manual_seed(job.seed)
        scores = []
        with hold(model, job.source, job.compute) as held:
            for index, block in enumerate(held.blocks):
                if self.by == "random":
                    scores.append(torch.rand(len(in_block(block)[1]), generator=dice))
                    continue
                with in_turn(held, index) as (_, each):
                    scores.append(-torch.tensor([flatness(matrices(expert)) for _, expert in each]))
                job.progress.advance(index + 1, len(held.blocks))
        return scores


def start(held: InMemory, job: Job) -> Activations:
    """Return the calibration tokens before the first block."""
    tokens = job.calibration
    assert tokens is not None
    batches = tokens.split(batch_of(tokens, job.compute.device))
    return held.start(batches, job.compute, last=True)


def observe(
    held: InMemory, index: int, states: Activations, *, removal: bool, everywhere: bool
) -> ObservedPass:
    """Run all calibration tokens through a block, and return what its experts did.

    removal: see `ObservedPass`; everywhere: also run each expert on all tokens, for merging.
    """
    with in_turn(held, index) as (block, experts):
        router = Router(block.get_submodule(held.family.dense[0]))
        tokens = ObservedPass(states, index, block, router, removal=removal)
        if everywhere:
            path, own = in_block(block)
            with replaced(block, {path: Everywhere(own, router, tokens.seen)}):
                for hidden in states.hidden:
                    with suppress(Stop):
                        states.run(index, block, hidden)
        for number, expert in experts:
            tokens.run(number, expert)
        tokens.finish()
    return tokens


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


def matrices(expert: nn.Module) -> list[Tensor]:
    """Return the weights of the linears of an expert."""
    return [each for each in expert.parameters() if each.ndim == 2]
