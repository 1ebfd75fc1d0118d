"""Quantize a model linear by linear, and train after each what is not quantized yet.

As in QuIP# (arXiv 2402.04396) and QTIP (2406.11235): when linears of a block are fixed, the others,
the norms and a gain for each row of the fixed ones are trained to give the output of the dense
block. At the end, norms and gains are trained to give the logits of the dense model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from methods.contract.codec import StoredWeight
from methods.contract.errors import Skipped
from methods.contract.method import Budget, Job, Outcome
from methods.model.families import Family
from methods.model.targets import dense_weight, family_of
from methods.workshop.pruning.hessian import add_gram, mean_of_others, symmetric
from methods.workshop.pruning.observer import Observer
from methods.workshop.pruning.pairs import Pair, PairedWalk
from methods.workshop.pruning.walk import Visit
from methods.workshop.training.block_fit import (
    Descent,
    evaluate,
    fit,
    trained_parameters,
    weigh,
)
from methods.workshop.training.distill import Settings
from methods.workshop.training.trainer import Trainer

Factor = Callable[[Tensor], Tensor]
"""factor(H [in, in]) -> what `Encode` takes of a Hessian, once for linears that share an input."""
Encode = Callable[[Tensor, Tensor], StoredWeight]
"""encode(weight [out, in], factor) -> its codec and its parts."""
GAIN = "gain"
"""Name of the parameter of a quantized linear, and of its part: a factor of each row, [out]."""
STRIDE = 2**30
"""Distance of an observer's sampled rows. It samples one row, and no error is estimated from it."""


@dataclass(frozen=True)
class Tuning:
    """Steps, each of one calibration sequence, and learning rates, which fall."""

    steps: int
    """Steps in a block after the linears of each input are fixed."""
    rate: float
    """Learning rate in a block, in units of each parameter's root mean square."""
    last_steps: int
    """Steps through the whole model at the end."""
    last_rate: float
    """Learning rate at the end."""


def quantize(
    name: str, model: nn.Module, job: Job, tuning: Tuning, factor: Factor, encode: Encode
) -> Outcome:
    """Quantize and train a model.

    name: of the quantizer. Raise Skipped for a mixture of experts, and for a model that is streamed
    from disk.
    """
    family = family_of(model.config.to_dict())  # type: ignore[operator, union-attr]
    if family.experts or job.compute.stream:
        what = "a mixture of experts" if family.experts else "a model larger than the memory"
        raise Skipped(f"{name} cannot tune {what}: use tune=0")
    walk = PairedWalk(model, job, goal="dense", batch=1)
    order = torch.Generator().manual_seed(job.seed)
    descent = Descent(tuning.steps, tuning.rate)
    stored: dict[str, StoredWeight] = {}
    changed: set[str] = set()
    errors: list[float] = []
    for pair in walk.pairs():
        goals = weigh(pair.goals, normalize=True, by_channel=True, massive=10)
        for linears in by_input(pair, family):
            fix(pair, linears, stored, factor, encode)
            start = open_parameters(pair, stored)
            changed |= {f"{pair.name}.{parameter}" for parameter in start}
            for _ in fit(pair, goals, start, order, descent):
                pass
        error, pair.outputs = evaluate(pair, goals)
        errors.append(float(f"{error:.6g}"))
        job.progress.advance(len(errors), walk.blocks, loss=error)
    notes = tune_to_logits(name, model, job, tuning, changed)
    for target, one in stored.items():
        linear = model.get_submodule(target)
        parts = {**one.parts, GAIN: remove_gain(linear)}
        Visit(target, dense_weight(linear), torch.empty(0), stored).store(one.codec, parts)
    weights = {f"{target}.weight" for target in stored}
    others = {parameter for parameter in changed if not parameter.endswith(f".{GAIN}")}
    outcome = walk.outcome(frozenset(others - weights), block_error=errors, **notes)
    return outcome._replace(stored=stored)


def by_input(pair: Pair, family: Family) -> Iterator[dict[str, nn.Module]]:
    """Yield the linears of a block that share an input, in order."""
    groups: dict[tuple[str, str], dict[str, nn.Module]] = {}
    for target, linear in pair.linears.items():
        groups.setdefault(family.input_of(target), {})[target] = linear
    yield from groups.values()


@torch.no_grad()
def fix(
    pair: Pair,
    linears: dict[str, nn.Module],
    stored: dict[str, StoredWeight],
    factor: Factor,
    encode: Encode,
) -> None:
    """Quantize linears that share an input, with the Hessian of what reaches them now, and give
    each gains of 1."""
    hessian, dead = hessian_of(pair, linears)
    prepared = factor(hessian)
    for target, linear in linears.items():
        weight = dense_weight(linear)
        weight[:, dead] = 0
        one = encode(weight, prepared)
        Visit(target, weight, hessian, stored).store(one.codec, one.parts)
        add_gain(linear)


def hessian_of(pair: Pair, linears: dict[str, nn.Module]) -> tuple[Tensor, Tensor]:
    """Return the Hessian of the input that linears share, [in, in], and which inputs are always 0,
    bool [in]. Those get the mean of the others on the diagonal, as in `HessianWalk`."""
    tokens = 0
    with Observer(linears, linears, add_gram, STRIDE) as observer:
        for hidden in pair.inputs:
            observer.batch(lambda hidden=hidden: pair.run(pair.block, hidden))  # type: ignore[misc]
            tokens += hidden.shape[:-1].numel()
    found = observer.take(next(iter(linears)))
    assert found
    hessian = symmetric(found[0]).mul_(2 / tokens)
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = mean_of_others(hessian.diagonal(), dead)
    return hessian, dead


def add_gain(linear: nn.Module) -> None:
    """Multiply the rows of a linear by a parameter, float32 [out], which begins as 1."""
    weight = dense_weight(linear)
    ones = torch.ones(len(weight), dtype=torch.float32, device=weight.device)
    linear.register_parameter(GAIN, nn.Parameter(ones, requires_grad=False))
    linear.gain_hook = linear.register_forward_hook(_multiply)  # type: ignore[assignment]


def remove_gain(linear: Any) -> Tensor:
    """Remove the gains of a linear, and return them in the format of their part, float16 [out]."""
    gain: Tensor = linear.gain.detach().half()
    linear.gain_hook.remove()
    del linear.gain, linear.gain_hook
    return gain


def _multiply(linear: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    gain: Tensor = linear.gain
    bias = getattr(linear, "bias", None)
    if bias is None:
        bias = torch.zeros_like(gain)
    return ((output - bias) * gain + bias).to(output.dtype)


def open_parameters(pair: Pair, stored: dict[str, StoredWeight]) -> dict[str, Tensor]:
    """Return the parameters of a block that are no weights of a quantized linear, by name."""
    fixed = {f"{target}.weight".removeprefix(f"{pair.name}.") for target in stored}
    found = trained_parameters(pair, norms=True)
    return {name: p.clone() for name, p in found.items() if name not in fixed}


@dataclass(frozen=True)
class Sequences:
    """Calibration sequences as a corpus: one a step, each pass in another order."""

    ids: Tensor
    """int64 [sequences, seqlen]"""
    seed: int

    @property
    def step_tokens(self) -> int:
        return self.ids.shape[1]

    @property
    def tokens(self) -> int:
        return self.ids.numel()

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.ids.numpy().tobytes()).hexdigest()

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        number, place = divmod(step, len(self.ids))
        generator = torch.Generator().manual_seed(self.seed + number)
        order = torch.randperm(len(self.ids), generator=generator)
        return self.ids[order[place : place + 1]]


def tune_to_logits(
    name: str, model: nn.Module, job: Job, tuning: Tuning, changed: set[str]
) -> dict[str, Any]:
    """Train norms, biases and gains to the dense model's logits on the calibration tokens, in
    place. Return notes.

    changed: names of the parameters that were trained in the blocks. Matrices among them are not
    trained again.
    """
    assert job.calibration is not None
    corpus = Sequences(job.calibration.cpu(), job.seed)
    budget = Budget(tokens=corpus.step_tokens * tuning.last_steps, checkpoint_s=math.inf)
    settings = Settings(eta=1.0, lr=tuning.last_rate)
    own = replace(job, training=corpus, validation=None, budget=budget)
    trainer = Trainer(name, model, own, settings)
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter_name in changed and parameter.dim() == 1)
    trained = [p for p in model.parameters() if p.requires_grad]
    trainer.run(torch.optim.AdamW(trained, weight_decay=0.0, **settings.adam, fused=True))
    gains = {n: p.detach().clone() for n, p in model.named_parameters() if n.endswith(f".{GAIN}")}
    trainer.finalize()
    for parameter_name, gain in gains.items():
        model.get_parameter(parameter_name).data = gain
    return {"kl": [row["kl"] for row in trainer.curve]}
