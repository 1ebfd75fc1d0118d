"""MaskLLM: learn which pattern each group takes while the weights stay frozen. Fang et al. 2024, arXiv 2409.17481.

[p] is the paper, [c] its code (NVlabs/MaskLLM), whose values are the defaults here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from baselines import maskfile
from methods.contract import Job, Needs, Outcome
from methods.errors import UserError
from methods.pattern import Pattern
from methods.targets import holds_in_out
from methods.training.ranks import full_tensor
from methods.training.settings import Settings
from methods.training.trainer import Trainer

STD = 0.01
"""Of the gates at first [c]."""
MOST = 70
"""Patterns a group may choose from, as many as 4:8 has; each costs 16 bytes a group."""
OWN = ".parametrizations.weight.0."
"""In the name of a gate."""


class Draw(NamedTuple):
    """What the masks of one step are drawn with. pull: of the regulariser, on the gradient of each micro-batch."""

    step: int
    tau: float
    kappa: float
    pull: float


class _Pull(torch.autograd.Function):
    """The identity; adds the gradient of -pull / 2 * ||x||^2 to what comes back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pull: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.pull = pull
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad.sub(x, alpha=ctx.pull), None


class Gated(nn.Module):
    """weight * M. While a draw is set, M = softmax((kappa gate + g) / tau) @ patterns with Gumbel noise g, a soft mask;
    else M is the pattern of each group's largest gate.

    gate: float32 [out, in / m, patterns]. The noise is that of a seed, the step and the target alone, so that all
    micro-batches, processes and recomputations of a step see one mask, and a resumed training what it would have seen.
    """

    patterns: Tensor

    def __init__(self, weight: Tensor, pattern: Pattern, key: tuple[int, int], transposed: bool) -> None:
        super().__init__()
        out, width = weight.shape[::-1] if transposed else weight.shape
        self.draw: Draw | None = None
        self._key, self._transposed = key, transposed
        chosen = every(pattern)
        gate = torch.empty(out, width // pattern.m, len(chosen)).normal_(0, STD, generator=_source("cpu", *key))
        self.gate = nn.Parameter(gate.to(weight.device))
        self.register_buffer("patterns", chosen.to(weight.device), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        if self.draw is None:
            keep = self.patterns[self.gate.argmax(-1)].flatten(1) > 0
            return weight.masked_fill(~self._turned(keep), 0)
        with torch.autocast(weight.device.type, enabled=False):
            masked = weight * self._turned(self.soft(self.draw))
        return _Pull.apply(masked, self.draw.pull)  # type: ignore[no-any-return, no-untyped-call]

    def soft(self, draw: Draw) -> Tensor:
        """[out, in]; the mean of every group is n / m."""
        source = _source(self.gate.device, *self._key, draw.step)
        noise = torch.empty_like(self.gate).exponential_(generator=source)
        noise = noise.clamp_(min=torch.finfo(noise.dtype).tiny).log_().neg_()  # an exponential may be drawn as 0
        probability = ((draw.kappa * self.gate + noise) / draw.tau).softmax(-1)
        return (probability @ self.patterns).flatten(1)

    @torch.no_grad()
    def lean(self, keep: Tensor, alpha: float) -> None:
        """Towards a prior's mask [out, in]: gate_i += alpha std(gate) (<M_0, M_i> - its mean over i) [p, sec. 3.2]."""
        shared = keep.unflatten(-1, (-1, self.patterns.shape[1])).to(self.patterns) @ self.patterns.T
        self.gate.add_(alpha * self.gate.std() * (shared - shared.mean(-1, keepdim=True)))

    def _turned(self, mask: Tensor) -> Tensor:
        """As the weight is stored."""
        return mask.T if self._transposed else mask


def every(pattern: Pattern) -> Tensor:
    """All ways to keep n of m: float32 [C(m, n), m], in the order of the indices kept, as in [c]."""
    chosen = torch.zeros(math.comb(pattern.m, pattern.n), pattern.m)
    for row, kept in zip(chosen, combinations(range(pattern.m), pattern.n), strict=True):
        row[list(kept)] = 1
    return chosen


def _source(device: torch.device | str, *key: int) -> torch.Generator:
    seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(seed))


@dataclass(frozen=True, kw_only=True)
class MaskLLM(Settings):
    """The loss is CE - lambda (1 - t/T) sum ||W * M||^2, over the gates alone; in the end each group takes the pattern of
    its largest gate. kappa, the scale of the gates, and tau, the temperature, go from their first value to their `_end`,
    linearly. No distillation, lr 5e-4 to 5e-5, eps 1e-5, decay 0.1 [c].

    The weights are the dense model's, never the prior's [p]: what `from=` names gives its mask and nothing else,
    leaning the gates with strength alpha. Without `from=` the gates start as noise.

    Memory: C(m, n) / m gates a weight, each with gradient and two moments in float32: 24 bytes a weight at 2:4 and 140 at
    4:8, beside its own 4; a forward pass holds C(m, n) / m + 1 floats more for the backward one.

    file: masks to apply and nothing to learn, as released by the authors (`baselines.maskfile`); sha256: of that file.
    """

    name: ClassVar[str] = "maskllm"
    needs: ClassVar[Needs] = Needs.TRAINING | Needs.TEACHER
    lr: float = 5e-4
    warmup: float = 0.0
    eps: float = 1e-5
    eta: float = 0.0
    decay: float = 0.1
    alpha: float = 3.0
    kappa: float = 100.0
    kappa_end: float = 500.0
    tau: float = 4.0
    tau_end: float = 0.05
    lambda_: float = 1e-5
    file: str = ""
    sha256: str = ""

    def draw_at(self, step: int, total: int, micro_batches: int = 1) -> Draw:
        """The schedules at a step, from 0."""
        t = step / total
        kappa = self.kappa + (self.kappa_end - self.kappa) * t
        tau = self.tau + (self.tau_end - self.tau) * t
        return Draw(step, tau, kappa, 2 * self.lambda_ * (1 - t) / micro_batches)

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if self.file:
            return maskfile.apply(self.name, Path(self.file), self.sha256, model, job)
        self._check(job)
        changed = as_dense(model, job) if job.prior else frozenset()
        gates = self._put_on(model, job)
        first = [g.gate.argmax(-1).to("cpu", torch.uint8) for g in gates]
        trainer = Trainer(self.name, model, job, self)
        trainer.train_only(OWN)
        learnt = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(learnt, **self.adam, weight_decay=self.decay, fused=True)
        assert job.training is not None
        batch = len(job.training.batch(0, trainer.rank, trainer.world))
        micro_batches = math.ceil(batch / (job.budget.micro or batch))

        def set_draw(step: int, total: int) -> dict[str, float]:
            draw = self.draw_at(step, total, micro_batches)
            for g in gates:
                g.draw = draw
            return {"tau": draw.tau, "kappa": draw.kappa}

        trainer.run(optimizer, teacher=True, hook=set_draw)
        trainer.mark("last_soft_mask")
        for g in gates:
            g.draw = None
        trainer.mark("end")
        moved = sum(
            int((full_tensor(g.gate).argmax(-1).cpu() != was).sum()) for g, was in zip(gates, first, strict=True)
        )
        choices, m = gates[0].patterns.shape
        notes = trainer.notes(
            groups_moved=float(f"{moved / sum(map(torch.numel, first)):.4g}"),
            patterns=choices,
            bytes_per_weight=4 + 16 * choices / m,
        )
        return Outcome(trainer.done(lambda model: take_off(model, job)), changed=changed, notes=notes)

    def _check(self, job: Job) -> None:
        if job.pattern.unstructured:
            raise UserError(f"{self.name} works in groups: pattern {job.pattern} has none, take n:m")
        choices = math.comb(job.pattern.m, job.pattern.n)
        if choices > MOST:
            raise UserError(
                f"{self.name} would learn {choices:,} numbers a group, a pattern of {job.pattern} each, and goes up to "
                f"{MOST}: take 2:4, 1:4, 2:8 or 4:8"
            )
        for field in ("kappa", "kappa_end", "tau", "tau_end"):
            if getattr(self, field) <= 0:
                raise UserError(f"{self.name}:{field}={getattr(self, field)} will not do: it must be above 0")

    def _put_on(self, model: nn.Module, job: Job) -> list[Gated]:
        gates = []
        for index, name in enumerate(job.targets):
            module = model.get_submodule(name)
            weight: Tensor = module.weight  # type: ignore[assignment]
            gated = Gated(weight, job.pattern, (job.seed, index), holds_in_out(module))
            if job.prior:
                gated.lean(job.prior.masks[name].to(weight.device), self.alpha)
            parametrize.register_parametrization(module, "weight", gated)
            gates.append(gated)
        return gates


@torch.no_grad()
def as_dense(model: nn.Module, job: Job) -> frozenset[str]:
    """Give a pruned model the dense one's parameters back; names of those outside the targets that this changes."""
    own = {f"{t}.weight" for t in job.targets}
    dense = dict(job.teacher().named_parameters())
    changed = []
    for name, parameter in model.named_parameters():
        if not torch.equal(parameter, dense[name]):
            parameter.copy_(dense[name])
            changed.append(name)
    return frozenset(changed) - own


def take_off(model: nn.Module, job: Job) -> None:
    """Leave the masked weights in place."""
    for module in map(model.get_submodule, job.targets):
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
