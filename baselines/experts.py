"""Experts: remove, replace or merge experts of a mixture, by any of the published scores, from one
pass of observations. The default score is REAP (Lasby et al. 2025), arXiv 2510.13999."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from methods import Compute, Cost, Does, Job, MethodInfo, Needs, Outcome, Removes
from methods.contract.axes import AXES
from methods.contract.ranges import CountOrZero, Share
from methods.contract.rules import UncalibratedBy
from methods.model.constant_experts import OUTPUTS
from methods.model.experts import ConstantExpert
from methods.model.folder import Writer
from methods.model.smaller_folder import count_left
from methods.model.targets import family_of
from methods.workshop.pruning.activations import Activations, batch_of
from methods.workshop.pruning.expert_merging import Group, around_best, by_output, merge
from methods.workshop.pruning.expert_scores import SCORES, Router, Seen, flatness
from methods.workshop.pruning.holders import SHARD_BYTES, InMemory, hold
from methods.workshop.pruning.observed_experts import ObservedPass, in_block, in_turn

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
        kept: list[tuple[int, ...]] = []
        merged = Merged(model, job)
        constants: dict[int, dict[str, Tensor]] = {}
        before: list[list[int]] = []
        after: list[list[int]] = []
        errors: list[float] = []
        held = hold(model, job.source, job.compute)
        states = start(held, job)
        with held:
            for index in range(len(held.blocks)):
                tokens = observe(held, index, states, by=self._by)
                if self.merge is not None:
                    groups = sorted(GROUPINGS[self._by](tokens.seen, left))
                    kept.append(tuple(group[0] for group in groups))
                    with held.block(index):
                        experts = merged.each(held, index, groups, tokens.seen, self._by)
                        error = tokens.error(experts, kept[-1])
                else:
                    scores = without_text[index] if without_text else SCORES[self._by](tokens.seen)
                    kept.append(tuple(sorted(highest(scores.cpu(), left))))
                    error = self._error(held, index, tokens, kept[-1], job.compute, constants)
                before.append(tokens.seen.count.long().tolist())
                after.append(tokens.load[list(kept[-1])].tolist())
                errors.append(error / max(float(tokens.seen.energy), 1e-30))
                job.progress.advance(index + 1, len(held.blocks))
        notes["tokens_per_expert"] = before
        notes["tokens_per_expert_after"] = after
        notes["layer_error"] = [float(f"{error:.6g}") for error in errors]
        everything = {"experts": tuple(kept)}
        changed = frozenset(merged.names)
        return Outcome(merged.model(), changed, notes, kept=everything, constants=constants)

    @property
    def _by(self) -> str:
        """The score, or the grouping of a merge."""
        if self.by is not None:
            return self.by
        if self.merge is not None:
            return "hc"
        return "reap" if self.replace is None else "mone"

    def _error(
        self,
        held: InMemory,
        index: int,
        tokens: ObservedPass,
        kept: tuple[int, ...],
        compute: Compute,
        constants: dict[int, dict[str, Tensor]],
    ) -> float:
        """Return the error of a block without the other experts, or with constants in their place,
        which are added to `constants`."""
        reachable: Sequence[int] = kept
        means: dict[int, nn.Module] = {}
        with in_turn(held, index) as (_, each):
            if self.replace is not None:
                reachable = range(len(tokens.load))
                gone = [number for number in reachable if number not in kept]
                outputs = tokens.seen.means.to(compute.dtype)
                means = {number: ConstantExpert(outputs[number]) for number in gone}
                rows = {name: p[gone] for name, p in tokens.router.module.named_parameters()}
                constants[index] = {OUTPUTS: outputs[gone], **rows}
            experts = ((number, means.get(number, expert)) for number, expert in each)
            return tokens.error(experts, reachable)

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


def observe(held: InMemory, index: int, states: Activations, *, by: str) -> ObservedPass:
    """Run all calibration tokens through a block, and return what its experts did.

    by: the score or grouping. Those that need more than the outputs of the router's choice get it.
    """
    with in_turn(held, index) as (block, experts):
        router = Router(block.get_submodule(held.family.dense[0]))
        tokens = ObservedPass(
            states, index, block, router, removal=by == "removal", everywhere=by == "hc"
        )
        for number, expert in experts:
            tokens.run(number, expert)
        tokens.finish()
    for batch in tokens.batches if by == "ream" else ():
        with in_turn(held, index) as (_, experts):
            tokens.compare(batch, experts)
    return tokens


class Merged:
    """Merged experts, in a model in memory, or in a folder that has nothing else."""

    def __init__(self, model: nn.Module, job: Job) -> None:
        self._model, self._job = model, job
        self.names: list[str] = []
        """Names of the tensors that changed."""
        self._is_streamed = any(p.is_meta for p in model.parameters())
        self._writer: Writer | None = None

    def each(
        self, held: InMemory, index: int, groups: Sequence[Group], seen: Seen, by: str
    ) -> Iterator[tuple[int, nn.Module]]:
        """Yield the first expert of each group of a block with its number. Several are merged."""
        path, _ = in_block(held.blocks[index])
        shares = SCORES[WEIGHTS_OF_MEAN[by]](seen).tolist()
        for group in groups:
            if len(group) == 1:
                with held.expert(index, group[0]) as own:
                    yield group[0], own
                continue
            mean = merge(partial(held.expert, index), group, shares, align=by == "ream")
            self._store(f"{held.name(index)}.{path}.{group[0]}", mean)
            yield group[0], mean

    def _store(self, prefix: str, expert: nn.Module) -> None:
        tensors = {f"{prefix}.{name}": tensor for name, tensor in expert.state_dict().items()}
        self.names += tensors
        if not self._is_streamed:
            # No other group reads this expert.
            self._model.get_submodule(prefix).load_state_dict(expert.state_dict())
            return
        if self._writer is None:
            self._writer = Writer(self._job.workdir / "merged", SHARD_BYTES)
        for name, tensor in tensors.items():
            self._writer.add(name, tensor)

    def model(self) -> nn.Module | Path:
        """Return the model, or the folder of the merged experts of a streamed model."""
        if self._writer is None:
            return self._model
        folder = self._writer.close()
        shutil.copyfile(self._job.source / "config.json", folder / "config.json")
        return folder


def highest(scores: Tensor, count: int) -> list[int]:
    """Return the experts with the highest scores. Of equal scores the first."""
    best: list[int] = scores.argsort(descending=True, stable=True)[:count].tolist()
    return best


def matrices(expert: nn.Module) -> list[Tensor]:
    """Return the weights of the linears of an expert."""
    return [each for each in expert.parameters() if each.ndim == 2]
