"""Block reconstruction: train each pruned block, mask held, to give what the dense block gives.

After arXiv 2510.14444 and 2402.12419, of which we could read the abstracts alone: what they leave
open is ours. A refinement: `recon:from=wanda`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.lr_scheduler import LambdaLR

from baselines.retrain import MaskedAdamW
from methods import Cost, Does, Job, MethodInfo, Needs, Outcome, UserError
from methods.contract.ranges import Beta, Count, CountOrZero, Fraction, LearningRate, NonNegative
from methods.contract.rules import SameOutputs
from methods.model.low_rank_adapter import CHILD
from methods.model.terms import Factors
from methods.workshop.pruning.hessian import mean_of_others
from methods.workshop.pruning.pairs import Goal, Pair, PairedWalk
from methods.workshop.quantizing.grids import assign_
from methods.workshop.training.settings import require_one_rate

State = dict[str, Tensor]
"""Parameters of a block, by their names in it."""


class Goals(NamedTuple):
    """The outputs a block should give, the weight of each token and the scale of each channel.

    A block whose output is zero has an error of 1.
    """

    outputs: list[Tensor]
    """Per batch, [batch, seqlen, hidden]."""
    weights: list[Tensor]
    """Per batch, float32 [batch, seqlen]."""
    scales: Tensor
    """float32 [hidden]."""
    left_out: int
    """Tokens of weight 0."""


def weigh(outputs: list[Tensor], normalize: bool, by_channel: bool, massive: float) -> Goals:
    """Weight tokens so that an error is the mean over tokens of ||change||^2 / ||output||^2.

    normalize: false to divide the sum of the errors by the sum of ||output||^2.
    by_channel: in both norms, divide each channel by its root mean square over the tokens that
    count. A channel that is
        always 0 is divided by that of the others.
    massive: tokens whose ||output|| is above this many times the median count nothing; 0: all
    count.
    """
    sizes = [y.float().square().sum(-1) for y in outputs]
    together = torch.cat([s.flatten() for s in sizes])
    limit = massive**2 * float(together.median()) if massive else torch.inf
    counts = [s <= limit for s in sizes]
    counted = int(sum(c.sum() for c in counts))
    scales = torch.ones_like(outputs[0][0, 0], dtype=torch.float32)
    tiny = torch.finfo(torch.float32).tiny
    if by_channel:
        squares = [
            (y.float().square() * c.unsqueeze(-1)).sum((0, 1))
            for y, c in zip(outputs, counts, strict=True)
        ]
        means = torch.stack(squares).sum(0) / counted
        means = means.where(means != 0, mean_of_others(means, means == 0))
        scales = means.sqrt()
        sizes = [(y.float() / scales).square().sum(-1) for y in outputs]
    weights = [
        (1 / s.clamp(min=tiny) if normalize else torch.ones_like(s)) * c
        for s, c in zip(sizes, counts, strict=True)
    ]
    total = float(sum((w * s).sum() for w, s in zip(weights, sizes, strict=True)))
    return Goals(outputs, [w / (total or 1.0) for w in weights], scales, len(together) - counted)


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


def squared_error(output: Tensor, goal: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """Return the sum over tokens of weight * ||(output - goal) / scales||^2."""
    return (((output.float() - goal.float()) / scales).square().sum(-1) * weight).sum()


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
        for index, pair in enumerate(walk.pairs()):
            apply_masks(pair, job.prior.masks)
            goals = weigh(pair.goals, self.normalize, self.by_channel, self.massive)
            error, pair.outputs = evaluate(pair, goals)
            before.append(error)
            start = {name: p.clone() for name, p in trained_parameters(pair, self.norms).items()}
            if start and self.epochs:
                for epoch, loss in enumerate(self.fit(pair, goals, start, order)):
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

    @torch.enable_grad()
    def fit(
        self, pair: Pair, goals: Goals, start: State, order: torch.Generator
    ) -> Iterator[float]:
        """Train a block's parameters, and write them into the block at the end. Yields the mean
        loss of each epoch.

        Weights are trained in float32, and the block computes with them in the job's dtype. If the
        model is stored in another format, they are rounded to it when the folder is written. Zeros
        of a matrix stay zeros.
        """
        dtypes = {name: p.dtype for name, p in start.items()}
        masters = {name: nn.Parameter(p.float().clone()) for name, p in start.items()}
        masks = {
            p: p.detach() != 0 for name, p in masters.items() if p.dim() == 2 and CHILD not in name
        }
        groups = [
            {"params": [p], "lr": self.lr or self.relative_lr * scale(name, masters)}
            for name, p in masters.items()
        ]
        optimizer = MaskedAdamW(groups, masks, betas=(self.beta1, self.beta2), fused=True)
        total = self.epochs * len(pair.inputs)
        schedule = LambdaLR(optimizer, lambda step: 1 - step / total)
        for _ in range(self.epochs):
            losses = []
            for i in torch.randperm(len(pair.inputs), generator=order).tolist():
                stored = {name: p.to(dtypes[name]) for name, p in masters.items()}
                output = pair.run(_with(pair.block, stored), pair.inputs[i])
                loss = squared_error(output, goals.outputs[i], goals.weights[i], goals.scales)
                loss.backward()
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                losses.append(loss.detach())
            yield float(torch.stack(losses).sum())
        write(pair.block, masters)


def _with(block: nn.Module, parameters: State) -> Callable[..., Tensor]:
    """Return the block as a function with these parameters."""
    return lambda *args, **kwargs: functional_call(block, parameters, args, kwargs)


def scale(name: str, parameters: Mapping[str, Tensor]) -> float:
    """Return the root mean square of what is not zero in a parameter, or 1. A bias has the scale of
    its weight."""
    values = parameters.get(name.removesuffix("bias") + "weight", parameters[name]).detach()
    kept = values[values != 0]
    if kept.numel():
        return float(kept.square().mean().sqrt())
    return 1.0


def apply_masks(pair: Pair, masks: Mapping[str, Tensor]) -> None:
    """Set weights that are not kept to zero. A pruned model does not change."""
    for name, module in pair.linears.items():
        weight: Tensor = module.weight  # type: ignore[assignment]
        weight.masked_fill_(~masks[name].to(weight.device), 0)


def trained_parameters(pair: Pair, norms: bool) -> State:
    """Return the targets' weights, biases and low-rank terms and, with `norms`, the parameters of
    modules with vectors only. None without targets.
    """
    if not pair.linears:
        return {}
    linears = set(pair.linears.values())
    found: State = {}
    for prefix, module in pair.block.named_modules():
        own = dict(module.named_parameters(recurse=False))
        # Not an attention's sinks.
        is_norm = set(own) <= {"weight", "bias"} and all(p.dim() == 1 for p in own.values())
        if module in linears or isinstance(module, Factors) or (norms and is_norm):
            found |= {f"{prefix}.{name}": p for name, p in own.items()}
    return found


def evaluate(pair: Pair, goals: Goals) -> tuple[float, list[Tensor]]:
    """Return the error of a block, and its outputs."""
    outputs = [pair.run(pair.block, hidden) for hidden in pair.inputs]
    each = zip(outputs, goals.outputs, goals.weights, strict=True)
    error = sum(float(squared_error(*part, goals.scales)) for part in each)
    return error, outputs


@torch.no_grad()
def write(block: nn.Module, parameters: Mapping[str, Tensor]) -> None:
    """Set parameters of a block, each in its dtype."""
    for name, value in parameters.items():
        assign_(block.get_parameter(name), value)
