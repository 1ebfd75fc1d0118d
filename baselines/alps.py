"""ALPS: find the mask of a layer by ADMM with a growing penalty, then least squares under it. Meng
et al. 2024, arXiv 2406.07831.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from methods import Cost, HessianWalk, Job, MethodInfo, Needs, Outcome, Pattern
from methods.contract.ranges import MAX, Count, CountOrZero, Fraction
from methods.workshop.pruning.hessian import damped, output_size
from methods.workshop.quantizing.grids import assign_

CHECK_EVERY = 3
"""Iterations between two checks of how much the mask changed."""
RHO_GROWTH = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))
"""(share, factor): rho is multiplied by the factor if more than this share of the kept weights has
changed."""
RHO_FALL, MIN_RHO = 5.0, 1e-4
"""A rho with which the mask hardly changes at the start is too large. It is divided by RHO_FALL,
down to MIN_RHO."""
PATIENCE, MIN_CHANGE = 30, 0.0003
"""From iteration PATIENCE on, changes of less than this share of the kept weights count as none."""


class LayerProblem(NamedTuple):
    """A layer whose damped Hessian is scaled to a diagonal of 1: weights are W * norm."""

    norm: Tensor
    """[in]"""
    hessian: Tensor
    """[in, in]"""
    values: Tensor
    """Its eigenvalues [in]"""
    vectors: Tensor
    """Its eigenvectors, columns [in, in]"""

    def inverse(self, rho: float) -> Tensor:
        """Return (H + rho I)^-1."""
        return (self.vectors / (self.values + rho)) @ self.vectors.T


class Support(NamedTuple):
    """The result of `find_support`."""

    weight: Tensor
    """[out, in], scaled as the problem, 0 where not kept"""
    keep: Tensor
    iterations: int
    rho: float


def find_support(start: Tensor, problem: LayerProblem, pattern: Pattern, rule: Alps) -> Support:
    """Algorithm 1: B minimises ||X (B - W0)^T||^2 + rho ||B - D + U||^2, D is B + U under the mask
    of its largest, U += B - D.

    Every third iteration rho grows, faster if more of the mask has changed, until nothing changes.

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
        if done % CHECK_EVERY:
            continue
        changed = int((best != before).sum())
        before = best
        growth = next((by for share, by in RHO_GROWTH if changed > share * kept), 1.0)
        moved |= changed > RHO_GROWTH[1][0] * kept
        if moved and (not changed or (done > PATIENCE and changed < MIN_CHANGE * kept)):
            break
        if not moved:
            if rho / RHO_FALL < MIN_RHO:
                break
            growth = 1 / RHO_FALL
            best = before = first
            weight = start.where(first, 0)
            dual.zero_()
        rho *= growth
        dual /= growth  # rho * U stays the same
        inverse = problem.inverse(rho)
    return Support(weight, best, done, rho)


def refine(weight: Tensor, keep: Tensor, start: Tensor, hessian: Tensor, steps: int) -> Tensor:
    """Conjugate gradients per row under its mask: weight [out, in], 0 where not kept, moves towards
    the minimiser of (w - w0) H (w - w0)^T over weights that are 0 there. The error never grows.

    The preconditioner is H's diagonal (Jacobi), which is 1 here.
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
    """Find the mask by ADMM with a growing penalty, then least squares under it.

    rho: initial penalty, for inputs of norm 1; damping: share of H's mean diagonal that is added to
    the diagonal;
    iterations: largest number of ADMM iterations; steps: number of steps of conjugate gradients.
    Defaults of the released code.

    Unstructured patterns are counted per layer.
    """

    name: ClassVar[str] = "alps"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    shares_calibration: ClassVar[bool] = True
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2406.07831",
        cost=Cost(
            passes=2,
            hessians=1,
            also="eigenvectors of each Hessian, in float64; up to 310 products of each weight "
            "matrix with one [in, in]",
        ),
    )
    rho: Annotated[float, Field(ge=MIN_RHO, le=MAX)] = 0.1
    damping: Fraction = 0.01
    iterations: Count = 300
    steps: CountOrZero = 10

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        walk = HessianWalk(model, job, self.damping, make_problem)
        layers: dict[str, dict[str, float]] = {}
        for visit, problem in walk:
            start = visit.weight.float() * problem.norm
            support = find_support(start, problem, job.pattern, self)
            better = refine(support.weight, support.keep, start, problem.hessian, self.steps)
            total = output_size(start, problem.hessian).clamp(min=torch.finfo(start.dtype).tiny)
            errors = [
                float(output_size(w - start, problem.hessian) / total)
                for w in (support.weight, better)
            ]
            assign_(
                visit.weight,
                (visit.weight + (better - start) / problem.norm).where(support.keep, 0),
            )
            values = {"rho": support.rho, "error_before": errors[0], "error": errors[1]}
            layers[visit.name] = {"iterations": support.iterations} | {
                k: float(f"{v:.6g}") for k, v in values.items()
            }
        return walk.outcome(layers=layers)


def make_problem(hessian: Tensor, damping: float) -> tuple[LayerProblem, float]:
    """Return the problem of a Hessian, and the damping used: see `damped`."""
    hessian, used = damped(hessian, damping)
    norm = hessian.diagonal().sqrt()
    hessian = hessian / norm / norm[:, None]
    # so that rounding does not mix in inputs that are always 0
    live = (hessian.count_nonzero(0) > 1).nonzero()  # [some, 1]
    values, vectors = torch.ones_like(norm), torch.diag(torch.ones_like(norm))
    some, mixes = torch.linalg.eigh(hessian[live, live.T].double())
    values[live.T], vectors[live, live.T] = some.to(values.dtype), mixes.to(values.dtype)
    return LayerProblem(norm, hessian, values, vectors), used
