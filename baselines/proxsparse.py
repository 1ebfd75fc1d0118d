"""ProxSparse: learn a mask by shrinking weights under a regulariser that is 0 where n:m holds. Liu et al. 2025, arXiv 2502.00258.

[c] is its code (amazon-science/ProxSparse), whose values for LLaMA2-7B are the defaults here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from methods.contract import Job, Needs, Outcome
from methods.errors import UserError
from methods.pattern import Pattern
from methods.targets import holds_in_out
from methods.training import ranks
from methods.training.ranks import local
from methods.training.settings import Settings
from methods.training.trainer import Trainer

ROUNDS = 200
"""Of the descent at most; where lambda |w| is far below 1, as in training, about five settle it."""
SETTLED = 1e-6
"""Of the largest |z| of its group, that a group still moves when it is left."""


def elementary(x: Tensor, degree: int) -> Tensor:
    """Sum over all products of `degree` different entries: [..., m] -> [...]; 1 where degree is 0, and 0 above m."""
    sums = [x.new_ones(x.shape[:-1]), *(x.new_zeros(x.shape[:-1]) for _ in range(degree))]
    for entry in x.unbind(-1):
        for k in range(degree, 0, -1):
            sums[k] = sums[k] + entry * sums[k - 1]
    return sums[degree]


def regulariser(weight: Tensor, n: int) -> Tensor:
    """R of each group [..., m] -> [...]: the sum of |product| over all n + 1 of its weights, 0 where at most n are not 0.

    For 2:4 that is |w1 w2 w3| + |w2 w3 w4| + |w3 w4 w1| + |w4 w1 w2| (eq. 4).
    """
    return elementary(weight.abs(), n + 1)


def prox(groups: Tensor, strength: float, n: int) -> Tensor:
    """argmin_w  ||w - z||^2 / 2 + strength R(w)  for each group z [count, m].

    The minimum has z's signs and order, and 0 for all but its k largest, k from n to m; so for each k the stationary
    point that a descent from 0 meets, and of these the best, of equals the sparsest (arXiv 2501.18015, on 2:4).
    """
    size, order = groups.abs().sort(dim=-1, descending=True, stable=True)
    best, least = size.clone(), (size[:, n:].square().sum(-1)) / 2
    best[:, n:] = 0
    for k in range(n + 1, size.shape[-1] + 1):
        w = torch.zeros_like(size)
        w[:, :k] = _stationary(size[:, :k], strength, n)
        value = (w - size).square().sum(-1) / 2 + strength * regulariser(w, n)
        better = value < least
        best = torch.where(better[:, None], w, best)
        least = torch.where(better, value, least)
    return torch.zeros_like(groups).scatter_(-1, order, best).copysign_(groups)


def _stationary(z: Tensor, strength: float, n: int) -> Tensor:
    """Gradient descent from 0 inside [0, z], z >= 0 and falling, with the step 1 / L of each group [count, k]."""
    k = z.shape[-1]
    step = 1 / (1 + strength * (k - 1) * elementary(z[:, : k - 2], n - 1))[:, None]
    w = torch.zeros_like(z)
    others = [[j for j in range(k) if j != i] for i in range(k)]
    for _ in range(ROUNDS):
        slope = torch.stack([elementary(w[:, rest], n) for rest in others], dim=-1)
        new = (w - step * (w - z + strength * slope)).clamp_(min=0)
        moved = ((new - w).abs() > SETTLED * z[:, :1]).any()
        w = new
        if not moved:
            break
    return w


class Proximal(torch.optim.AdamW):
    """AdamW, each step followed by the prox of the groups that hold more than n [c]: not scaled by the learning rate."""

    def __init__(self, params: Any, pattern: Pattern, strength: float, transposed: bool, **options: Any) -> None:
        super().__init__(params, weight_decay=0.0, **options)
        self._pattern, self._strength, self._transposed = pattern, strength, transposed
        self.figures: dict[str, float] = {}
        """Share of the groups in which the pattern holds."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        super().step()
        held = count = 0.0
        for parameter in self.param_groups[0]["params"]:
            rows = self._rows(parameter)
            groups = rows.reshape(-1, self._pattern.m)
            over = groups.count_nonzero(-1) > self._pattern.n
            groups[over] = prox(groups[over], self._strength, self._pattern.n)
            rows.copy_(groups.view(rows.shape))
            held += len(over) - int((groups.count_nonzero(-1) > self._pattern.n).sum())
            count += len(over)
        held, count = ranks.all_reduce_sum(held, count)
        self.figures = {"held": held / count}

    def _rows(self, parameter: Tensor) -> Tensor:
        """This rank's part, [out, in]."""
        return local(parameter).T if self._transposed else local(parameter)

    @torch.no_grad()
    def finish(self, given: list[Tensor]) -> None:
        """Put the weights of `given` back under the mask of the n largest that each group has left."""
        for parameter, was in zip(self.param_groups[0]["params"], given, strict=True):
            rows = self._rows(parameter)
            keep = self._pattern.keep(rows.abs())
            rows.copy_((was.T if self._transposed else was).masked_fill(~keep, 0))


@dataclass(frozen=True, kw_only=True)
class ProxSparse(Settings):
    """lambda: strength of the regulariser, its prox taken after every step of Adam. The weights it moves are thrown away
    in the end: those it started from stay, under the mask of the largest that are left. The targets alone are trained;
    [c] trains all and throws all away. Its second regulariser, of how far a kept weight strays, is 0 there by default and
    not built here. Rate and warmup are [c]'s, its 400 samples are a recipe's; the fall is a cosine here, a line there.

    Memory: 20 bytes a target's weight: itself, where it started, gradient and two moments in float32.
    """

    name: ClassVar[str] = "proxsparse"
    needs: ClassVar[Needs] = Needs.TRAINING | Needs.TEACHER
    lr: float = 1e-4
    warmup: float = 0.1
    floor: float = 0.0
    beta2: float = 0.999
    eta: float = 0.0
    lambda_: float = 0.25

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if job.pattern.unstructured:
            raise UserError(f"proxsparse works in groups: pattern {job.pattern} has none, take n:m")
        if self.lambda_ < 0:
            raise UserError(f"proxsparse:lambda={self.lambda_} will not do: it must not be below 0")
        trainer = Trainer(self.name, model, job, self)
        theta, rest = trainer.parameters(job.targets)
        for parameter in rest:
            parameter.requires_grad_(False)
        given = [local(p).detach().clone() for p in theta]
        transposed = holds_in_out(model.get_submodule(job.targets[0]))
        optimizer = Proximal(theta, job.pattern, self.lambda_, transposed, **self.adam, fused=True)
        trainer.run(optimizer, teacher=True)
        trainer.mark("before_projection")
        held = optimizer.figures["held"]
        optimizer.finish(given)
        trainer.mark("end")
        return Outcome(trainer.done(), notes=trainer.notes(held=float(f"{held:.6g}")))
