"""MaskLLM: learn the pattern of each group while the weights are frozen. Fang et al. 2024, arXiv
2409.17481.

[p] is the paper, [c] its code (NVlabs/MaskLLM), which has the defaults used here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from baselines import maskfile
from methods import Cost, Job, MethodInfo, Needs, Outcome, Pattern, Settings, Trainer, UserError
from methods.contract.info import InputFile
from methods.contract.ranges import Fraction, LearningRate, NonNegative, Positive
from methods.contract.rules import GroupsOnly, SameBlocks
from methods.workshop.training.process_group import full_tensor
from methods.workshop.training.trainer import bake

GATE_STD = 0.01
"""Standard deviation of the initial gates [c]."""
MAX_PATTERNS = 70
"""Largest number of patterns per group, that of 4:8. Each costs 16 bytes per group."""
GATE_PATH = ".parametrizations.weight.0."
"""A part of the names of gates, and of no other parameter."""


class Sampling(NamedTuple):
    """Parameters of the masks of one step. penalty: of the regulariser, on the gradient of each
    micro-batch."""

    step: int
    tau: float
    kappa: float
    penalty: float


class _Regularized(torch.autograd.Function):
    """The identity; adds the gradient of -penalty / 2 * ||x||^2 in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, penalty: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.penalty = penalty
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad.sub(x, alpha=ctx.penalty), None


class Gated(nn.Module):
    """weight * M. While `sampling` is set, M is a soft mask, softmax((kappa gate + g) / tau) @
    patterns with Gumbel noise g; else M is the pattern with the largest gate in each group.

    gate: float32 [out, in / m, patterns]. The noise depends only on the seed, the step and the
    target, so that all micro-batches, processes and recomputations of a step use one mask, and a
    resumed training the same masks.
    """

    patterns: Tensor

    def __init__(self, weight: Tensor, pattern: Pattern, key: tuple[int, int]) -> None:
        super().__init__()
        out, width = weight.shape
        self.sampling: Sampling | None = None
        self._key = key
        patterns = all_patterns(pattern)
        gate = torch.empty(out, width // pattern.m, len(patterns)).normal_(
            0, GATE_STD, generator=_generator("cpu", *key)
        )
        self.gate = nn.Parameter(gate.to(weight.device))
        self.register_buffer("patterns", patterns.to(weight.device), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        if self.sampling is None:
            keep = self.patterns[self.gate.argmax(-1)].flatten(1) > 0
            return weight.masked_fill(~keep, 0)
        with torch.autocast(weight.device.type, enabled=False):
            masked = weight * self.soft_mask(self.sampling)
        return _Regularized.apply(masked, self.sampling.penalty)  # type: ignore[no-any-return, no-untyped-call]

    def soft_mask(self, sampling: Sampling) -> Tensor:
        """Sample a mask [out, in] with values from 0 to 1. The mean of each group is n / m."""
        # from 1: numpy takes a key that ends in 0 for the shorter one, which is the gates' own
        generator = _generator(self.gate.device, *self._key, sampling.step + 1)
        noise = torch.empty_like(self.gate).exponential_(generator=generator)
        # An exponential sample may be 0.
        noise = noise.clamp_(min=torch.finfo(noise.dtype).tiny).log_().neg_()
        probability = ((sampling.kappa * self.gate + noise) / sampling.tau).softmax(-1)
        return (probability @ self.patterns).flatten(1)

    @torch.no_grad()
    def apply_prior(self, keep: Tensor, alpha: float) -> None:
        """Move the gates towards a prior's mask [out, in]: gate_i += alpha std(gate) (<M_0, M_i> -
        its mean over i) [p, sec. 3.2]."""
        shared = (
            keep.unflatten(-1, (-1, self.patterns.shape[1])).to(self.patterns) @ self.patterns.T
        )
        self.gate.add_(alpha * self.gate.std() * (shared - shared.mean(-1, keepdim=True)))


def all_patterns(pattern: Pattern) -> Tensor:
    """Return all ways to keep n of m: float32 [C(m, n), m], in the order of the kept indices [c].
    For pairs:4:8 the six ways to keep two of four pairs, [6, 8]."""
    kept, units = pattern.units
    patterns = torch.zeros(math.comb(units, kept), units)
    for row, places in zip(patterns, combinations(range(units), kept), strict=True):
        row[list(places)] = 1
    return pattern.per_weight(patterns)


def _generator(device: torch.device | str, *key: int) -> torch.Generator:
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(seed))


@dataclass(frozen=True, kw_only=True)
class MaskLLM(Settings):
    """Learn the mask of each group, with frozen weights; file= for released masks.

    The loss is CE - lambda (1 - t/T) sum ||W * M||^2; only the gates are trained. In the end each
    group gets the pattern with its largest gate. kappa, the scale of the gates, and tau, the
    temperature, change linearly from the first value to the one named `_end`. No distillation, lr
    5e-4 to 5e-5, eps 1e-5 and decay 0.1, as in the released code.

    The weights are those of the dense model, never of the prior: the stage named by `from=` gives
    only its mask, towards which the gates are moved with strength alpha. Without `from=` the gates
    start as noise.

    Memory: C(m, n) / m gates per weight, each with gradient and two moments in float32. That is 24
    bytes per weight at 2:4 and 140 at 4:8, besides the 4 of the weight; a forward pass keeps C(m,
    n) / m + 1 floats more.

    file: masks to apply, without training, in the authors' format (`baselines.maskfile`); sha256:
    digest of that file.
    """

    name: ClassVar[str] = "maskllm"
    needs: ClassVar[Needs] = Needs.TRAINING | Needs.TEACHER
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2409.17481",
        cost=Cost(
            training=6, state=28, tokens=2.1e9, also="the paper's 2,000 steps of 256 x 4096 tokens"
        ),
        file=InputFile("file"),
        rules=(GroupsOnly(unless="file"), SameBlocks()),
    )
    lr: LearningRate = 5e-4
    warmup: Fraction = 0.0
    eps: Positive = 1e-5
    eta: Fraction = 0.0
    decay: NonNegative = 0.1
    alpha: NonNegative = 3.0
    kappa: Positive = 100.0
    kappa_end: Positive = 500.0
    tau: Positive = 4.0
    tau_end: Positive = 0.05
    lambda_: NonNegative = 1e-5
    file: str = ""
    sha256: Annotated[
        str, Field(pattern="^([0-9a-f]{64})?$", description="64 hexadecimal digits")
    ] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.file and Path(self.file).exists():
            try:
                maskfile.open_masks(Path(self.file)).close()
            except UserError as fault:
                raise ValueError(fault) from None  # reported with the name of the method

    def sampling_at(self, step: int, total: int, micro_batches: int = 1) -> Sampling:
        """Return the values of the schedules at a step, from 0."""
        t = step / total
        kappa = self.kappa + (self.kappa_end - self.kappa) * t
        tau = self.tau + (self.tau_end - self.tau) * t
        return Sampling(step, tau, kappa, 2 * self.lambda_ * (1 - t) / micro_batches)

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if self.file:
            return maskfile.apply(self.name, Path(self.file), self.sha256, model, job)
        self._check_pattern(job)
        changed = restore_dense(model, job) if job.prior else frozenset()
        gates = self._add_gates(model, job)
        initial = [g.gate.argmax(-1).to("cpu", torch.uint8) for g in gates]
        # A gate draws its noise by its own key and the step: compiled, each is compiled again at
        # each step.
        settings = replace(self, compile="off") if self.compile == "auto" else self
        trainer = Trainer(self.name, model, job, settings)
        trainer.train_only(GATE_PATH)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, **self.adam, weight_decay=self.decay, fused=True)
        assert job.training is not None
        batch = len(job.training.batch(0, trainer.rank, trainer.world))
        micro_batches = math.ceil(batch / (job.budget.micro or batch))

        def set_sampling(step: int, total: int) -> dict[str, float]:
            sampling = self.sampling_at(step, total, micro_batches)
            for g in gates:
                g.sampling = sampling
            return {"tau": sampling.tau, "kappa": sampling.kappa}

        trainer.run(optimizer, hook=set_sampling)
        trainer.log_validation("last_soft_mask")
        for g in gates:
            g.sampling = None
        trainer.log_validation("end")
        moved = sum(
            int((full_tensor(g.gate).argmax(-1).cpu() != was).sum())
            for g, was in zip(gates, initial, strict=True)
        )
        choices, m = gates[0].patterns.shape
        notes = trainer.notes(
            groups_moved=float(f"{moved / sum(map(torch.numel, initial)):.4g}"),
            patterns=choices,
            bytes_per_weight=4 + 16 * choices / m,
        )
        return Outcome(trainer.finalize(bake), changed=changed, notes=notes)

    def _check_pattern(self, job: Job) -> None:
        job.pattern.require_groups(self.name)
        kept, units = job.pattern.units
        choices = math.comb(units, kept)
        if choices > MAX_PATTERNS:
            raise UserError(
                f"{self.name} learns one number per pattern of a group: at most {MAX_PATTERNS}, "
                f"and {job.pattern} has {choices:,}: use 2:4, 1:4, 2:8, 4:8 "
                "or pairs:4:8"
            )

    def _add_gates(self, model: nn.Module, job: Job) -> list[Gated]:
        gates = []
        for index, name in enumerate(job.targets):
            module = model.get_submodule(name)
            weight: Tensor = module.weight  # type: ignore[assignment]
            gated = Gated(weight, job.pattern, (job.seed, index))
            if job.prior:
                gated.apply_prior(job.prior.masks[name].to(weight.device), self.alpha)
            parametrize.register_parametrization(module, "weight", gated)
            gates.append(gated)
        return gates


@torch.no_grad()
def restore_dense(model: nn.Module, job: Job) -> frozenset[str]:
    """Set a pruned model's parameters to the dense ones. Return the names outside the targets that
    changed."""
    weights = {f"{t}.weight" for t in job.targets}
    dense = dict(job.teacher().named_parameters())
    changed = []
    for name, parameter in model.named_parameters():
        if not torch.equal(parameter, dense[name].to(parameter.dtype)):
            parameter.copy_(dense[name])
            changed.append(name)
    return frozenset(changed) - weights
