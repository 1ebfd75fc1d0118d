"""Block reconstruction: train each pruned block, mask held, to give what the dense block gives.

After arXiv 2510.14444 and 2402.12419, of which we could read the abstracts alone: what they leave
open is ours. A refinement: `recon:from=wanda`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from methods import Cost, Does, Job, MethodInfo, Needs, Outcome, UserError
from methods.contract.ranges import Beta, Count, CountOrZero, Fraction, LearningRate, NonNegative
from methods.contract.rules import SameOutputs
from methods.model.low_rank_adapter import CHILD
from methods.workshop.pruning.pairs import Goal, Pair, PairedWalk
from methods.workshop.training.block_fit import (
    Descent,
    evaluate,
    fit,
    trained_parameters,
    weigh,
    write,
)
from methods.workshop.training.settings import require_one_rate


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


@dataclass(frozen=True, kw_only=True)
class Recon:
    """Train each pruned block, mask held, to give what the dense block gives.

    target: what a block should give: "dense", what the dense block gives on the dense model's
    inputs, which also corrects the error of the blocks before; "own-input", what it gives on the
    pruned block's inputs.
    epochs: passes over the calibration tokens; batch: sequences per step; relative_lr: learning
    rate of the first step, in units of each parameter's root mean square over what is kept, from
    where it falls linearly to 0; lr: one learning rate for all parameters instead, 0 for none;
    normalize: divide each token's error by the square of its size; by_channel: divide each channel
    by its root mean square first; massive: leave out tokens whose output is this many times the
    median in size, 0 for none; norms: train the norms of the block, too.
    """

    name: ClassVar[str] = "recon"
    needs: ClassVar[Needs] = Needs.CALIBRATION | Needs.TEACHER
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2510.14444",
        does=Does.KEEPS_MASK | Does.REFINES,
        after="sparsegpt",
        rules=(SameOutputs(),),
        cost=Cost(
            passes=15,
            state=16,
            whole_blocks=True,
            also="a second, dense model in memory; the state is of one block",
        ),
    )
    target: Goal = "dense"
    epochs: CountOrZero = 4
    batch: Count = 1
    relative_lr: Fraction = 0.008
    lr: LearningRate = 0.0
    beta1: Beta = 0.9
    beta2: Beta = 0.95
    normalize: bool = True
    by_channel: bool = True
    massive: NonNegative = 10.0
    norms: bool = True

    def __post_init__(self) -> None:
        require_one_rate(self)
        if 0 < self.massive < 1:
            raise ValueError(
                f"massive={self.massive:g} would leave out more than half of the tokens: use 0, "
                "or 1 and more"
            )

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if job.prior is None:
            raise UserError(
                "recon needs a pruned model: use recon:from=METHOD, for example recon:from=wanda"
            )
        job.prior.require(job.pattern, self.name)
        walk = PairedWalk(model, job, goal=self.target, batch=self.batch)
        changed: set[str] = set()
        before, after, left_out, undone = [], [], [], 0
        order = torch.Generator().manual_seed(job.seed)
        betas = self.beta1, self.beta2
        for index, pair in enumerate(walk.pairs()):
            apply_masks(pair, job.prior.masks)
            goals = weigh(pair.goals, self.normalize, self.by_channel, self.massive)
            error, pair.outputs = evaluate(pair, goals)
            before.append(error)
            start = {name: p.clone() for name, p in trained_parameters(pair, self.norms).items()}
            if start and self.epochs:
                steps = self.epochs * len(pair.inputs)
                descent = Descent(steps, self.relative_lr, self.lr, betas)
                for epoch, loss in enumerate(fit(pair, goals, start, order, descent)):
                    job.progress.advance(
                        index * self.epochs + epoch + 1, walk.blocks * self.epochs, loss=loss
                    )
                error, pair.outputs = evaluate(pair, goals)
                if not error <= before[-1]:  # or it is not a number
                    write(pair.block, start)
                    error, pair.outputs = evaluate(pair, goals)
                    undone += 1
            else:
                job.progress.advance(index + 1, walk.blocks)
            after.append(error)
            left_out.append(goals.left_out)
            changed |= {f"{pair.name}.{name}" for name in start}
        figures = {"before": _rounded(before), "after": _rounded(after)}
        return walk.outcome(
            frozenset(n for n in changed if CHILD not in n) - {f"{t}.weight" for t in job.targets},
            block_error=figures,
            tokens_left_out=left_out,
            blocks_undone=undone,
        )


def apply_masks(pair: Pair, masks: Mapping[str, Tensor]) -> None:
    """Set weights that are not kept to zero. A pruned model does not change."""
    for name, module in pair.linears.items():
        weight: Tensor = module.weight  # type: ignore[assignment]
        weight.masked_fill_(~masks[name].to(weight.device), 0)
