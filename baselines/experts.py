"""Experts: remove experts of a mixture, by any of the published scores, from one pass of
observations. The default score is REAP (Lasby et al. 2025), arXiv 2510.13999."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from methods import Cost, Does, Job, MethodInfo, Needs, Outcome, Removes
from methods.contract.axes import AXES
from methods.contract.ranges import CountOrZero, Share
from methods.model.experts import ExpertList, experts_of
from methods.model.smaller_folder import count_left
from methods.model.targets import family_of
from methods.workshop.pruning.activations import Activations, replaced
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
    """Remove experts of each block of a mixture; what is left is an ordinary smaller mixture.

    drop: share of the experts of each block, such as 25%, or their number. by: the score; the
    lowest go. "reap": mean of weight times output norm; "frequency": tokens; "gate": sum of
    weights; "ean", "man", "msan": sum, mean and mean square of output norms; "aimer": how uneven
    the weights are; "removal": error of the block's experts without this one; "random": a control.
    """

    name: ClassVar[str] = "experts"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2510.13999",
        does=Does.REMOVES,
        removes=(Removes("experts", ("drop",)),),
        cost=Cost(passes=3, whole_blocks=True),
    )
    drop: CountOrZero | Share = "25%"
    by: Literal["reap", "frequency", "gate", "ean", "man", "msan", "aimer", "removal", "random"] = (
        "reap"
    )

    @torch.inference_mode()
    def apply(self, model: nn.Module, job: Job) -> Outcome:
        config = model.config.to_dict()  # type: ignore[operator, union-attr]
        family = family_of(config)
        left = count_left({"experts": self.drop}, config)["experts"]
        dice = torch.Generator().manual_seed(job.seed)
        kept: list[tuple[int, ...]] = []
        loads: list[list[int]] = []
        errors: list[float] = []
        for index, block, states in each_block(model, job):
            found = experts_of(block)
            assert found
            path, experts = found
            router = Router(block.get_submodule(family.dense[0]))
            seen = observe(block, path, experts, router, states, index)
            scores = score(self.by, seen, experts, dice)
            # Of equal scores the first are kept.
            best = scores.argsort(descending=True, stable=True)[:left]
            kept.append(tuple(best.sort().values.tolist()))
            comparing = Comparing(experts, router, kept[-1])
            with replaced(block, {path: comparing}):
                states.advance(index, block)
            loads.append([int(count) for count in seen.count])
            errors.append(comparing.error / max(float(seen.energy), 1e-30))
        notes: dict[str, Any] = {
            "experts": {"of": AXES["experts"].size(family, config), "left": left},
            "tokens_per_expert": loads,
            "layer_error": [float(f"{error:.6g}") for error in errors],
        }
        return Outcome(model, kept={"experts": tuple(kept)}, notes=notes)


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
) -> Seen:
    """Run all calibration tokens through a block, and return what its experts did. path: name of
    the experts in the block."""
    first = states.hidden[0]
    seen = Seen(len(experts), first.shape[-1], states.device)
    with replaced(block, {path: Observing(experts, router, seen)}):
        for hidden in states.hidden:
            states.run(index, block, hidden)
    return seen
