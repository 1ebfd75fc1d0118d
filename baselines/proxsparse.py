"""ProxSparse: learn a mask with a regulariser that is 0 where n:m holds. Liu et al. 2025, arXiv
2502.00258.

[c] is its code (amazon-science/ProxSparse). The defaults are its values for LLaMA2-7B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from methods import Cost, Job, MethodInfo, Needs, Outcome, Pattern, Settings, Trainer
from methods.contract.ranges import Beta, Fraction, LearningRate, NonNegative
from methods.contract.rules import GroupsOnly
from methods.workshop.training import process_group
from methods.workshop.training.process_group import local

MAX_ITERATIONS = 200
"""Largest number of descent steps. If lambda |w| is far below 1, as in training, about five are
enough."""
TOLERANCE = 1e-6
"""The descent ends when all steps are smaller than this share of the largest |z| of the group."""


def elementary_symmetric(x: Tensor, degree: int) -> Tensor:
    """Return the sum of all products of `degree` different entries: [..., m] -> [...]; 1 for degree
    0, and 0 above m."""
    sums = [x.new_ones(x.shape[:-1]), *(x.new_zeros(x.shape[:-1]) for _ in range(degree))]
    for entry in x.unbind(-1):
        for k in range(degree, 0, -1):
            sums[k] = sums[k] + entry * sums[k - 1]
    return sums[degree]


def regulariser(weight: Tensor, n: int) -> Tensor:
    """Return R of each group, [..., m] -> [...]: the sum of the |products| of n + 1 weights; 0 if
    at most n are not 0.

    For 2:4 it is |w1 w2 w3| + |w2 w3 w4| + |w3 w4 w1| + |w4 w1 w2| (eq. 4).
    """
    return elementary_symmetric(weight.abs(), n + 1)


def prox(groups: Tensor, strength: float, n: int) -> Tensor:
    """Return argmin_w  ||w - z||^2 / 2 + strength R(w)  for each group z [count, m].

    The minimum has z's signs and order, and is 0 for all but its k largest, k from n to m. So the
    stationary point that a descent from 0 reaches is computed for each k, and the best is taken, of
    equal ones the sparsest (arXiv 2501.18015, for 2:4).
    """
    size, order = groups.abs().sort(dim=-1, descending=True, stable=True)
    best, lowest = size.clone(), (size[:, n:].square().sum(-1)) / 2
    best[:, n:] = 0
    for k in range(n + 1, size.shape[-1] + 1):
        w = torch.zeros_like(size)
        w[:, :k] = _stationary(size[:, :k], strength, n)
        value = (w - size).square().sum(-1) / 2 + strength * regulariser(w, n)
        better = value < lowest
        best = torch.where(better[:, None], w, best)
        lowest = torch.where(better, value, lowest)
    return torch.zeros_like(groups).scatter_(-1, order, best).copysign_(groups)


def _stationary(z: Tensor, strength: float, n: int) -> Tensor:
    """Descend by gradients from 0 inside [0, z], z >= 0 and descending [count, k], with step 1 / L
    for each group."""
    k = z.shape[-1]
    step = 1 / (1 + strength * (k - 1) * elementary_symmetric(z[:, : k - 2], n - 1))[:, None]
    w = torch.zeros_like(z)
    others = []
    for i in range(k):
        others.append([j for j in range(k) if j != i])
    for _ in range(MAX_ITERATIONS):
        slope = torch.stack([elementary_symmetric(w[:, rest], n) for rest in others], dim=-1)
        new = (w - step * (w - z + strength * slope)).clamp_(min=0)
        moved = ((new - w).abs() > TOLERANCE * z[:, :1]).any()
        w = new
        if not moved:
            break
    return w


class Proximal(torch.optim.AdamW):
    """AdamW. Each step is followed by the prox of all groups with more than n non-zeros, not scaled
    by lr [c]."""

    def __init__(self, params: Any, pattern: Pattern, strength: float, **options: Any) -> None:
        super().__init__(params, weight_decay=0.0, **options)
        self._pattern, self._strength = pattern, strength
        self.metrics: dict[str, float] = {}
        """held: the share of the groups in which the pattern holds."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        super().step()
        sparse = count = 0.0
        for parameter in self.param_groups[0]["params"]:
            rows = local(parameter)
            kept, units = self._pattern.units
            groups = rows.reshape(-1, units, self._pattern.unit)
            norms = torch.linalg.vector_norm(groups, dim=-1)
            over = norms.count_nonzero(-1) > kept
            # The prox of a function of norms shrinks a pair and keeps its direction.
            factors = prox(norms[over], self._strength, kept).div_(norms[over]).nan_to_num_(0)
            groups[over] *= factors.unsqueeze(-1)
            rows.copy_(groups.view(rows.shape))
            sparse += len(over) - self._pattern.violations(rows)
            count += len(over)
        sparse, count = process_group.all_reduce_sum(sparse, count)
        self.metrics = {"held": sparse / count}

    @torch.no_grad()
    def apply_mask(self, initial: list[Tensor]) -> None:
        """Set the weights to `initial` under the mask of the n largest weights of each group."""
        for parameter, weight in zip(self.param_groups[0]["params"], initial, strict=True):
            rows = local(parameter)
            keep = self._pattern.keep(rows.abs())
            rows.copy_(weight.masked_fill(~keep, 0))


@dataclass(frozen=True, kw_only=True)
class ProxSparse(Settings):
    """Learn a mask by shrinking weights until n:m holds; the dense weights are kept under it.

    lambda: strength of the regulariser, whose prox is taken after each step of Adam. For pairs the
    regulariser is that of the norms of pairs.

    lr and warmup are those of the released code. The recipe paper-proxsparse has its 400 samples.

    Memory: 20 bytes per weight of a target: its value, the initial value, gradient and two moments
    in float32.
    """

    name: ClassVar[str] = "proxsparse"
    needs: ClassVar[Needs] = Needs.TRAINING | Needs.TEACHER
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2502.00258",
        cost=Cost(
            training=6, state=16, tokens=1.6e6, also="the paper's 400 sequences of 4096 tokens"
        ),
        rules=(GroupsOnly(),),
    )
    lr: LearningRate = 1e-4
    warmup: Fraction = 0.1
    final_lr_ratio: Fraction = 0.0
    beta2: Beta = 0.999
    eta: Fraction = 0.0
    lambda_: NonNegative = 0.25

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        job.pattern.require_groups(self.name)
        trainer = Trainer(self.name, model, job, self)
        theta, rest = trainer.parameters(job.targets)
        for parameter in rest:
            parameter.requires_grad_(False)
        initial = [local(p).detach().clone() for p in theta]
        optimizer = Proximal(theta, job.pattern, self.lambda_, **self.adam, fused=True)
        trainer.run(optimizer)
        trainer.log_validation("before_projection")
        share = optimizer.metrics["held"]
        optimizer.apply_mask(initial)
        trainer.log_validation("end")
        return Outcome(trainer.finalize(), notes=trainer.notes(held=float(f"{share:.6g}")))
