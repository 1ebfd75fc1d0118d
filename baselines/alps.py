"""ALPS: a layer's support by ADMM under a growing penalty, then least squares on it. Meng et al. 2024, arXiv 2406.07831."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from baselines.admm import loss
from methods.contract import Job, Needs, Outcome
from methods.errors import UserError
from methods.pattern import Pattern
from methods.pruning.hessian import HessianWalk, damped
from methods.quantizing.grids import put

EVERY = 3
"""Iterations between looks at the support."""
GROWTH = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))
"""rho grows by the second where more than the first, a share of the weights kept, has changed."""
FALL, LEAST = 5.0, 1e-4
"""A rho under which the support hardly moves from the start is too large: it is divided by the one, down to the other."""
PATIENCE, STILL = 30, 0.0003
"""From that iteration on, fewer changes than this share of the weights kept are none."""


class Problem(NamedTuple):
    """The damped Hessian scaled to a diagonal of 1: weights are W * norm."""

    norm: Tensor
    """[in]"""
    hessian: Tensor
    """[in, in]"""
    values: Tensor
    """Its eigenvalues [in]"""
    vectors: Tensor
    """Its eigenvectors, columns [in, in]"""

    def inverse(self, rho: float) -> Tensor:
        """(H + rho I)^-1"""
        return (self.vectors / (self.values + rho)) @ self.vectors.T


class Found(NamedTuple):
    weight: Tensor
    """[out, in], in the problem's units, 0 where not kept"""
    keep: Tensor
    iterations: int
    rho: float


def support(start: Tensor, problem: Problem, pattern: Pattern, rule: Alps) -> Found:
    """Algorithm 1: B minimises ||X (B - W0)^T||^2 + rho ||B - D + U||^2, D is the pattern's best of B + U, U += B - D.

    Every third iteration rho grows, the more of the support has changed, until nothing does.

    Args:
        start: W0, float32 [out, in].
    """
    best = first = pattern.keep(start.abs())
    rho, moved = rule.rho, False
    weight, dual, inverse = start.where(best, 0), torch.zeros_like(start), problem.inverse(rho)
    before, kept = best, int(best.sum())
    done = 0
    for done in range(1, rule.iterations + 1):
        pulled = (weight - start).sub_(dual).mm(inverse).mul_(rho).add_(start).add_(dual)  # B + U
        best = pattern.keep(pulled.abs())
        weight = pulled.where(best, 0)
        dual = pulled - weight
        if done % EVERY:
            continue
        changed = int((best != before).sum())
        before = best
        growth = next((by for share, by in GROWTH if changed > share * kept), 1.0)
        moved |= changed > GROWTH[1][0] * kept
        if moved and (not changed or (done > PATIENCE and changed < STILL * kept)):
            break
        if not moved:
            if rho / FALL < LEAST:
                break
            growth = 1 / FALL
            best = before = first
            weight = start.where(first, 0)
            dual.zero_()
        rho *= growth
        dual /= growth  # what is held is rho * U
        inverse = problem.inverse(rho)
    return Found(weight, best, done, rho)


def refine(weight: Tensor, keep: Tensor, start: Tensor, hessian: Tensor, steps: int) -> Tensor:
    """Conjugate gradients, each row on its own support: weight [out, in], 0 where not kept, moves towards the minimiser of
    (w - w0) H (w - w0)^T over weights that are 0 there. It never moves away from it.

    The preconditioner is H's diagonal (Jacobi's), all ones in the problem's units.
    """
    residual = (start - weight).mm(hessian).where(keep, 0)
    direction = residual
    size = residual.square().sum(1, keepdim=True)
    tiny = torch.finfo(weight.dtype).tiny
    for _ in range(steps):
        image = direction.mm(hessian).where(keep, 0)
        step = size / (direction * image).sum(1, keepdim=True).clamp(min=tiny)
        weight = weight + step * direction
        residual = residual - step * image
        size, last = residual.square().sum(1, keepdim=True), size
        direction = residual + size / last.clamp(min=tiny) * direction
    return weight


@dataclass(frozen=True)
class Alps:
    """rho: of the first iterations, inputs having norm 1; damping: fraction of H's mean diagonal added to it; iterations: of
    ADMM at most; steps: of conjugate gradients, 0 for none. 0.1, 0.01, 300 and 10 are the released code's.

    Unstructured, per layer.
    """

    name: ClassVar[str] = "alps"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    rho: float = 0.1
    damping: float = 0.01
    iterations: int = 300
    steps: int = 10

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        self._check()
        walk = HessianWalk(model, job, self.damping, problem)
        diary: dict[str, dict[str, float]] = {}
        for visit, at in walk:
            start = visit.weight.float() * at.norm
            found = support(start, at, job.pattern, self)
            better = refine(found.weight, found.keep, start, at.hessian, self.steps)
            whole = loss(start, at.hessian).clamp(min=torch.finfo(start.dtype).tiny)
            errors = [float(loss(w - start, at.hessian) / whole) for w in (found.weight, better)]
            put(visit.weight, (visit.weight + (better - start) / at.norm).where(found.keep, 0))
            told = {"rho": found.rho, "error_before": errors[0], "error": errors[1]}
            diary[visit.name] = {"iterations": found.iterations} | {k: float(f"{v:.6g}") for k, v in told.items()}
        return walk.outcome(layers=diary)

    def _check(self) -> None:
        if not LEAST <= self.rho < torch.inf:
            raise UserError(f"alps:rho={self.rho} will not do: it is a penalty of {LEAST:g} or more")
        if not 0 <= self.damping <= 1:
            raise UserError(f"alps:damping={self.damping} will not do: it is a fraction, from 0 to 1")
        if self.iterations < 1:
            raise UserError(f"alps:iterations={self.iterations} will not do: take 1 or more")
        if self.steps < 0:
            raise UserError(f"alps:steps={self.steps} will not do: take 0 or more")


def problem(hessian: Tensor, damping: float) -> tuple[Problem, float]:
    """The problem of a Hessian, and the damping it took: see `damped`."""
    hessian, _, took = damped(hessian, damping)
    norm = hessian.diagonal().sqrt()
    hessian = hessian / norm / norm[:, None]
    live = (hessian.count_nonzero(0) > 1).nonzero()  # [some, 1]; rounding shall not mix dead inputs with these
    values, vectors = torch.ones_like(norm), torch.diag(torch.ones_like(norm))
    some, mixes = torch.linalg.eigh(hessian[live, live.T].double())
    values[live.T], vectors[live, live.T] = some.to(values.dtype), mixes.to(values.dtype)
    return Problem(norm, hessian, values, vectors), took
