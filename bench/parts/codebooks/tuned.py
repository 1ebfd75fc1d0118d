"""Quantize a model linear by linear beside the model before it, and train after each what is not
quantized yet.

As in QuIP# (arXiv 2402.04396) and QTIP (2406.11235): when linears of a block are fixed, the others,
the norms and a gain for each row of the fixed ones are trained to give the output of the dense
block. At the end, norms and gains are trained to give the logits of the dense model.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

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

Prepare = Callable[[Tensor, Tensor], Any]
"""prepare(H [in, in], cross [in, in]) -> what `Encode` takes, once for linears that share an input.
cross: see `Grams`."""
Encode = Callable[[Tensor, Any], StoredWeight]
"""encode(weight [out, in], prepared) -> its codec and its parts."""
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
    name: str, model: nn.Module, job: Job, tuning: Tuning, prepare: Prepare, encode: Encode
) -> Outcome:
    """Quantize a model, and train it if the tuning has steps.

    name: of the quantizer. Raise Skipped for a model that is streamed from disk, and for training a
    mixture of experts.
    """
    family = family_of(model.config.to_dict())  # type: ignore[operator, union-attr]
    if tuning.steps and family.experts:
        raise Skipped(f"{name} cannot tune a mixture of experts: use tune=0")
    if job.compute.stream:
        raise Skipped(
            f"{name} needs two models in memory, and this one is larger than the memory: use "
            "asymmetry=0 and tune=0"
        )
    given = Given(model, job.targets)
    # The walk compares with the model that it is given, whatever a stage before did to the dense.
    walk = PairedWalk(
        model, replace(job, teacher=lambda: given.model, blocks=None), goal="dense", batch=1
    )
    order = torch.Generator().manual_seed(job.seed)
    descent = Descent(tuning.steps, tuning.rate)
    stored: dict[str, StoredWeight] = {}
    changed: set[str] = set()
    errors: list[float] = []
    for pair in walk.pairs():
        goals = weigh(pair.goals, normalize=True, by_channel=True, massive=10)
        for linears in by_input(pair, family):
            fix(pair, linears, given.inputs, stored, prepare, encode)
            if tuning.steps:
                for linear in linears.values():
                    add_gain(linear)
                start = open_parameters(pair, stored)
                changed |= {f"{pair.name}.{parameter}" for parameter in start}
                for _ in fit(pair, goals, start, order, descent):
                    pass
        given.inputs.clear()
        error, pair.outputs = evaluate(pair, goals)
        errors.append(float(f"{error:.6g}"))
        job.progress.advance(len(errors), walk.blocks, loss=error)
    if not tuning.steps:
        return walk.outcome(block_error=errors)._replace(stored=stored)
    notes = tune_to_logits(name, model, job, tuning, changed)
    for target, one in stored.items():
        linear = model.get_submodule(target)
        parts = {**one.parts, GAIN: remove_gain(linear)}
        Visit(target, dense_weight(linear), torch.empty(0), stored).store(one.codec, parts)
    weights = {f"{target}.weight" for target in stored}
    others = {parameter for parameter in changed if not parameter.endswith(f".{GAIN}")}
    outcome = walk.outcome(frozenset(others - weights), block_error=errors, **notes)
    return outcome._replace(stored=stored)


class Given:
    """A copy of the model before it is quantized, which records the inputs of its linears."""

    def __init__(self, model: nn.Module, targets: Iterable[str]) -> None:
        self.model = copy.deepcopy(model)
        self.inputs: dict[str, list[Tensor]] = {}
        """Inputs of the linears that ran since this was cleared, by batch."""
        for target in targets:
            self.model.get_submodule(target).register_forward_pre_hook(self._record(target))

    def _record(self, target: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, args: self.inputs.setdefault(target, []).append(args[0])


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
    given: Mapping[str, list[Tensor]],
    stored: dict[str, StoredWeight],
    prepare: Prepare,
    encode: Encode,
) -> None:
    """Quantize linears that share an input, for the inputs that reach them now.

    given: inputs of the linears in the model before it was quantized.
    """
    grams = grams_of(pair, linears, given)
    prepared = prepare(grams.hessian, grams.cross)
    for target, linear in linears.items():
        weight = dense_weight(linear)
        weight[:, grams.dead] = 0
        one = encode(weight, prepared)
        Visit(target, weight, grams.hessian, stored).store(one.codec, one.parts)


class Grams(NamedTuple):
    """Sums over tokens of an input X', and of X, the same input before anything was quantized."""

    hessian: Tensor
    """2 X'^T X' / tokens, [in, in], with the mean of the others on the diagonal of dead inputs."""
    cross: Tensor
    """2 (X - X')^T X' / tokens, [in, in]."""
    dead: Tensor
    """True for inputs that are always 0, bool [in]."""


def grams_of(
    pair: Pair, linears: Mapping[str, nn.Module], given: Mapping[str, list[Tensor]]
) -> Grams:
    """Return the sums of the input that linears share."""
    target, linear = next(iter(linears.items()))
    given_inputs, total, tokens = iter(given[target]), torch.empty(0), 0

    def add(x: Tensor, hessian: Tensor | None) -> Tensor:
        nonlocal total, tokens
        if hessian is None:
            total = x.new_zeros(x.shape[1], x.shape[1])
        total.addmm_((next(given_inputs).flatten(0, -2).float() - x).T, x)
        tokens += len(x)
        return add_gram(x, hessian)

    with Observer({target: linear}, [target], add, STRIDE) as observer:
        for hidden in pair.inputs:
            observer.batch(lambda hidden=hidden: pair.run(pair.block, hidden))  # type: ignore[misc]
    found = observer.take(target)
    assert found
    hessian = symmetric(found[0]).mul_(2 / tokens)
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = mean_of_others(hessian.diagonal(), dead)
    return Grams(hessian, total.mul_(2 / tokens), dead)


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
    # One rate for norms and gains: in units of each norm's root mean square Gemma became worse.
    trained = [p for p in model.parameters() if p.requires_grad]
    trainer.run(torch.optim.AdamW(trained, weight_decay=0.0, **settings.adam, fused=True))
    gains = {n: p.detach().clone() for n, p in model.named_parameters() if n.endswith(f".{GAIN}")}
    trainer.finalize()
    for parameter_name, gain in gains.items():
        model.get_parameter(parameter_name).data = gain
    return {"kl": [row["kl"] for row in trainer.curve]}
