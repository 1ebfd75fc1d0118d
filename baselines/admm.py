"""ADMM: a layer's least squares under the pattern, by alternating directions. Boža 2024, arXiv 2401.02938."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from methods.contract import Job, Needs, Outcome
from methods.errors import UserError
from methods.pattern import Pattern
from methods.pruning.hessian import HessianWalk, damped
from methods.quantizing.grids import put


class Problem(NamedTuple):
    """Inputs scaled to norm 1: weights are W * norm, and H is the inputs' correlation, damped."""

    norm: Tensor
    """[in]"""
    hessian: Tensor
    """[in, in]"""
    inverse: Tensor
    """(H + rho I)^-1, [in, in]"""


class Settled(NamedTuple):
    weight: Tensor
    """[out, in], in the problem's units, 0 where not kept"""
    keep: Tensor
    residuals: list[float]
    """||W - Z|| / ||W0|| after each iteration"""


def loss(change: Tensor, hessian: Tensor) -> Tensor:
    """What a change of the weights [out, in] does to the outputs: tr(change H change^T)."""
    return ((change @ hessian) * change).sum()


def settle(start: Tensor, problem: Problem, pattern: Pattern, rule: Admm) -> Settled:
    """Algorithm 2 on weights in the problem's units: Z is W + U under the mask, U += W - Z, W the minimiser of
    ||X (W - W0)^T||^2 + rho ||W - Z + U||^2, which is W0 + rho (Z - U - W0) (H + rho I)^-1.

    The mask grows for `rule.gradual` iterations and is then held. Iteration t of these drops the least of |W + U| in the
    layer, the share s - s (1 - t/gradual)^3 of it; n:m, none of the n largest of a group as they are by then.

    Args:
        start: W0, float32 [out, in].
    """
    weight, dual = start, torch.zeros_like(start)
    keep = pattern.keep(start.abs())
    scale = start.norm().clamp(min=torch.finfo(start.dtype).tiny)
    residuals = []
    for t in range(1, rule.iterations + 1):
        moved = weight + dual
        if t <= rule.gradual:
            keep = _growing(moved.abs(), pattern, t / rule.gradual)
        kept = moved.where(keep, 0)
        dual = moved - kept
        weight = (start - kept).add_(dual).mm(problem.inverse).mul_(-rule.rho).add_(start)
        residuals.append(float((weight - kept).norm() / scale))
    return Settled((weight + dual).where(keep, 0), keep, residuals)


def _growing(size: Tensor, pattern: Pattern, done: float) -> Tensor:
    """The mask at a fraction `done` of the way; until its end, of equal sizes all stay."""
    if done == 1:
        return pattern.keep(size)
    share = 1 - pattern.n / pattern.m if pattern.m else pattern.sparsity
    if pattern.m:
        size = size.masked_fill(pattern.keep(size), torch.inf)
    gone = int(size.numel() * share * (1 - (1 - done) ** 3))
    return size >= size.flatten().kthvalue(gone + 1).values


@dataclass(frozen=True)
class Admm:
    """iterations: in all; gradual: of them, those in which the mask still grows (0: the mask of |W| ||X||, held); rho: the
    weight of the pattern, inputs having norm 1; damping: added to the diagonal, then 1. All as in the released code.

    Unstructured, per layer.
    """

    name: ClassVar[str] = "admm"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    iterations: int = 20
    gradual: int = 15
    rho: float = 1.0
    damping: float = 0.1

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        self._check()
        walk = HessianWalk(model, job, self.damping, self.problem)
        residuals, errors = {}, {}
        for visit, problem in walk:
            start = visit.weight.float() * problem.norm
            done = settle(start, problem, job.pattern, self)
            change = done.weight - start
            put(visit.weight, (visit.weight + change / problem.norm).where(done.keep, 0))
            residuals[visit.name] = [float(f"{r:.6g}") for r in (max(done.residuals), done.residuals[-1])]
            whole = loss(start, problem.hessian).clamp(min=torch.finfo(start.dtype).tiny)
            errors[visit.name] = float(f"{float(loss(change, problem.hessian) / whole):.6g}")
        return walk.outcome(residual=residuals, layer_error=errors)

    def problem(self, hessian: Tensor, damping: float) -> tuple[Problem, float]:
        norm = hessian.diagonal().sqrt()
        hessian, _, took = damped(hessian / norm / norm[:, None], damping)
        inverse = hessian.clone()
        inverse.diagonal().add_(self.rho)
        return Problem(norm, hessian, torch.cholesky_inverse(torch.linalg.cholesky(inverse))), took

    def _check(self) -> None:
        if self.iterations < 1:
            raise UserError(f"admm:iterations={self.iterations} will not do: take 1 or more")
        if not 0 <= self.gradual <= self.iterations:
            raise UserError(
                f"admm:gradual={self.gradual} will not do: of {self.iterations} iterations, "
                f"the mask can grow in 0 to {self.iterations}"
            )
        if not 0 < self.rho < torch.inf:
            raise UserError(f"admm:rho={self.rho} will not do: it is a weight above 0; the paper's is 1")
        if not 0 <= self.damping <= 1:
            raise UserError(f"admm:damping={self.damping} will not do: it is a fraction, from 0 to 1")
