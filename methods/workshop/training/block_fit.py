"""Train a block, of which some weights are pruned or quantized, to give what the dense block
gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim.lr_scheduler import LambdaLR

from methods.model.low_rank_adapter import CHILD
from methods.model.terms import Factors
from methods.workshop.pruning.hessian import mean_of_others
from methods.workshop.pruning.pairs import Pair
from methods.workshop.quantizing.grids import assign_
from methods.workshop.training.masked_adam import MaskedAdamW

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


class Descent(NamedTuple):
    """Settings of Adam for a block."""

    steps: int
    """Number of steps, each of one batch."""
    relative_lr: float
    """Learning rate of the first step, in units of each parameter's root mean square over what is
    kept. It falls linearly to 0."""
    lr: float = 0.0
    """One learning rate for all parameters instead; 0 for none."""
    betas: tuple[float, float] = (0.9, 0.95)


def squared_error(output: Tensor, goal: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """Return the sum over tokens of weight * ||(output - goal) / scales||^2."""
    return (((output.float() - goal.float()) / scales).square().sum(-1) * weight).sum()


@torch.enable_grad()
def fit(
    pair: Pair, goals: Goals, start: State, order: torch.Generator, descent: Descent
) -> Iterator[float]:
    """Train a block's parameters, and write them into the block at the end. Yields the loss of each
    pass over the batches.

    Weights are trained in float32, and the block computes with them in the job's dtype. If the
    model is stored in another format, they are rounded to it when the folder is written. Zeros of a
    matrix stay zeros.
    """
    dtypes = {name: p.dtype for name, p in start.items()}
    masters = {name: nn.Parameter(p.float().clone()) for name, p in start.items()}
    masks = {
        p: p.detach() != 0 for name, p in masters.items() if p.dim() == 2 and CHILD not in name
    }
    groups = [
        {"params": [p], "lr": descent.lr or descent.relative_lr * scale(name, masters)}
        for name, p in masters.items()
    ]
    optimizer = MaskedAdamW(groups, masks, betas=descent.betas, fused=True)
    schedule = LambdaLR(optimizer, lambda step: 1 - step / descent.steps)
    for left in range(descent.steps, 0, -len(pair.inputs)):
        losses = []
        for i in torch.randperm(len(pair.inputs), generator=order)[:left].tolist():
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
