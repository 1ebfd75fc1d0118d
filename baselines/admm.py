"""ADMM: least squares per layer under the pattern, by alternating directions. Boža 2024, arXiv
2401.02938."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from methods import Cost, HessianWalk, Job, MethodInfo, Needs, Outcome, Pattern
from methods.contract.ranges import Count, CountOrZero, Fraction, Positive
from methods.workshop.pruning.hessian import damped, output_size
from methods.workshop.quantizing.grids import assign_


class Problem(NamedTuple):
    """A layer with inputs scaled to norm 1: weights are W * norm, and H is the damped correlation
    of the inputs."""

    norm: Tensor
    """[in]"""
    hessian: Tensor
    """[in, in]"""
    inverse: Tensor
    """(H + rho I)^-1, [in, in]"""


class Solution(NamedTuple):
    """The result of `solve`."""

    weight: Tensor
    """[out, in], scaled as the problem, 0 where not kept"""
    keep: Tensor
    residuals: list[float]
    """||W - Z|| / ||W0|| after each iteration"""


def solve(start: Tensor, problem: Problem, pattern: Pattern, rule: Admm) -> Solution:
    """Algorithm 2 on weights scaled as the problem: Z is W + U under the mask, U += W - Z, W the
    minimiser of
    ||X (W - W0)^T||^2 + rho ||W - Z + U||^2, which is W0 + rho (Z - U - W0) (H + rho I)^-1.

    In the first `rule.gradual` iterations more and more weights are pruned: iteration t prunes the
    smallest |W + U| of the layer, a share of s - s (1 - t/gradual)^3; with n:m, never one of the n
    largest of a group. Then the mask is constant.

    Args:
        start: W0, float32 [out, in].
    """
    weight, dual = start, torch.zeros_like(start)
    keep = pattern.keep(start.abs())
    scale = start.norm().clamp(min=torch.finfo(start.dtype).tiny)
    residuals = []
    for t in range(1, rule.iterations + 1):
        shifted = weight + dual
        if t <= rule.gradual:
            keep = _growing_mask(shifted.abs(), pattern, t / rule.gradual)
        kept = shifted.where(keep, 0)
        dual = shifted - kept
        weight = (start - kept).add_(dual).mm(problem.inverse).mul_(-rule.rho).add_(start)
        residuals.append(float((weight - kept).norm() / scale))
    return Solution((weight + dual).where(keep, 0), keep, residuals)


def _growing_mask(size: Tensor, pattern: Pattern, done: float) -> Tensor:
    """Return the mask after a fraction `done` of the gradual iterations. Before the last one, equal
    sizes are all kept."""
    if done == 1:
        return pattern.keep(size)
    share = pattern.share
    if pattern.m:
        size = size.masked_fill(pattern.keep(size), torch.inf)
    pruned = int(size.numel() * share * (1 - (1 - done) ** 3))
    return size >= size.flatten().kthvalue(pruned + 1).values


@dataclass(frozen=True)
class Admm:
    """Least squares under the pattern by ADMM, with a gradual mask.

    iterations: number of iterations; gradual: the first of them, in which the mask changes (0: the
    mask of |W| ||X|| stays); rho: penalty, for inputs of norm 1; damping: added to the diagonal,
    which is 1. Defaults of the released code.

    Unstructured patterns are counted per layer.
    """

    name: ClassVar[str] = "admm"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    shares_calibration: ClassVar[bool] = True
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2401.02938",
        presets={"fixed-mask": {"gradual": 0}},
        cost=Cost(passes=2, hessians=1, also="20 products of each weight matrix with one [in, in]"),
    )
    iterations: Count = 20
    gradual: CountOrZero = 15
    rho: Positive = 1.0
    damping: Fraction = 0.1

    def __post_init__(self) -> None:
        if self.gradual > self.iterations:
            raise ValueError(f"gradual={self.gradual} must be at most iterations={self.iterations}")

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        walk = HessianWalk(model, job, self.damping, self.problem)
        residuals, errors = {}, {}
        for visit, problem in walk:
            start = visit.weight.float() * problem.norm
            solution = solve(start, problem, job.pattern, self)
            change = solution.weight - start
            assign_(visit.weight, (visit.weight + change / problem.norm).where(solution.keep, 0))
            residuals[visit.name] = [
                float(f"{r:.6g}") for r in (max(solution.residuals), solution.residuals[-1])
            ]
            total = output_size(start, problem.hessian).clamp(min=torch.finfo(start.dtype).tiny)
            errors[visit.name] = float(f"{float(output_size(change, problem.hessian) / total):.6g}")
        return walk.outcome(residual=residuals, layer_error=errors)

    def problem(self, hessian: Tensor, damping: float) -> tuple[Problem, float]:
        """Return the problem of a Hessian, and the damping used: see `damped`."""
        norm = hessian.diagonal().sqrt()
        hessian, used = damped(hessian / norm / norm[:, None], damping)
        inverse = hessian.clone()
        inverse.diagonal().add_(self.rho)
        return Problem(norm, hessian, torch.cholesky_inverse(torch.linalg.cholesky(inverse))), used
