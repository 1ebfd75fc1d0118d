"""Scale channels so that rounding errs less: SmoothQuant (arXiv 2211.10438) and AWQ (arXiv
2306.00978)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from methods import Cost, Does, Job, MethodInfo, Needs, Outcome, UserError, Walk
from methods.contract.ranges import Count, Fraction
from methods.workshop.pruning.hessian import add_gram, symmetric
from methods.workshop.quantizing.grids import Integer, group_size
from methods.workshop.transforms.changes import Scaling
from methods.workshop.transforms.wiring import Wiring

SMALLEST = 1e-5
"""Smallest scale, and smallest size of a channel, relative to the largest one."""


def largest(x: Tensor, total: Tensor | None) -> Tensor:
    """Update the largest absolute value of each input feature. [tokens, in] -> [in]"""
    top = x.abs().amax(0) if len(x) else x.new_zeros(x.shape[1])
    return top if total is None else torch.maximum(total, top)


@dataclass(frozen=True, kw_only=True)
class Smooth:
    """Move the outliers of inputs into weights, so that both can be rounded.

    Eq. 4: s_j = max|X_j|^alpha / max|W_j|^(1 - alpha), in each norm and the linears that read it.
    With alpha=0 the columns of the weights become equally large.
    """

    name: ClassVar[str] = "smooth"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2211.10438",
        does=Does.KEEPS_FUNCTION,
        cost=Cost(passes=2),
        presets={"equalize": {"alpha": 0.0}},
    )
    alpha: Fraction = 0.5

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        wiring = Wiring(model, job, self.name)
        if not any(wiring.flow.norms):
            raise UserError(
                f"smooth scales norms, and no linear of {wiring.config.model_type} reads one: use "
                "awq"
            )
        inputs, weights = {}, {}
        for visit in Walk(model, job, largest):
            inputs[visit.name], weights[visit.name] = (
                visit.stat.double(),
                visit.weight.abs().amax(0).double(),
            )
        for block, norm, readers in wiring.readers():
            known = [r for r in readers if r in inputs]
            if norm and known:
                top = _positive(torch.stack([weights[r] for r in known]).amax(0))
                scale = _positive(inputs[known[0]]).pow(self.alpha) / top.pow(1 - self.alpha)
                wiring.normed(block, norm, Scaling(_centered(scale)))
        return wiring.outcome()


@dataclass(frozen=True, kw_only=True)
class Awq:
    """Protect the channels with large inputs: scale them up before rounding, by a search.

    Section 3.2: s = (size of X)^alpha, with the best alpha of a grid from 0 to 1 for each group of
    linears with one input. The error of an alpha is ||(W' - W) X||^2 over those linears, where W'
    is W rounded after scaling. Without the search of a clipping range. The size of an input is its
    root mean square, where the paper has the mean of |X|. bits, group: bits and group size of the
    integers to round to; grid: number of alphas.
    """

    name: ClassVar[str] = "awq"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2306.00978", does=Does.KEEPS_FUNCTION, cost=Cost(passes=2, hessians=1)
    )
    bits: Annotated[int, Field(ge=2, le=16)] = 4
    group: Count | None = None
    grid: Count = 20

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        wiring = Wiring(model, job, self.name)
        sizes: dict[str, Tensor] = {}
        errors: dict[str, Tensor] = {}
        # Hessians of the block that is visited, by the statistic they are of.
        whole: dict[int, Tensor] = {}
        for visit in Walk(model, job, add_gram):
            if id(visit.stat) not in whole:
                whole = {id(visit.stat): symmetric(visit.stat)}
            hessian = whole[id(visit.stat)]
            sizes[visit.name] = hessian.diagonal().double().sqrt()
            errors[visit.name] = self._errors(visit.weight.float(), hessian)
        chosen = []
        for place, linears in self._places(wiring):
            known = [name for name in linears if name in errors]
            if not known:
                continue
            total = torch.stack([errors[name] for name in known]).sum(0)
            best = int(total.argmin())
            chosen.append(round(best / self.grid, 4))
            scale = self._scale(sizes[known[0]], best / self.grid)
            if place[1] == "units":
                wiring.units(place[0], Scaling(scale))
            elif place[1] == "values":
                wiring.values(place[0], Scaling(scale.unflatten(0, (wiring.heads[1], -1))))
            else:
                wiring.normed(place[0], place[1], Scaling(scale))
        return wiring.outcome(alphas=chosen)

    def _places(self, wiring: Wiring) -> Iterator[tuple[tuple[str, str], Sequence[str]]]:
        """Yield where a scale can act, as a block and a norm, "values" or "units", and the linears
        that read it."""
        for block, norm, readers in wiring.readers():
            if norm:
                yield (block, norm), readers
        heads, groups = wiring.heads
        for block in wiring.blocks:
            if wiring.flow.values and heads == groups:
                yield (block, "values"), [f"{block}.{wiring.flow.values[1]}"]
            if wiring.flow.factor:
                yield (block, "units"), [f"{block}.{wiring.flow.units[-1]}"]

    def _scale(self, size: Tensor, alpha: float) -> Tensor:
        return _centered(_positive(size).pow(alpha))

    def _errors(self, weight: Tensor, hessian: Tensor) -> Tensor:
        """Return the error of each alpha, float64 [grid]. hessian: X^T X, [in, in]."""
        grid, group = Integer(self.bits), group_size(weight.shape[1], self.group, 128, self.name)
        size, out = hessian.diagonal().double().sqrt(), []
        for step in range(self.grid):
            scale = self._scale(size, step / self.grid).float()
            groups = (weight * scale).unflatten(1, (-1, group))
            change = grid.snap(groups, grid.scale(groups)).flatten(1) / scale - weight
            out.append(float((change @ hessian).mul_(change).sum(dtype=torch.float64)))
        return torch.tensor(out, dtype=torch.float64)


def _positive(x: Tensor) -> Tensor:
    """Return x with a smallest value above zero."""
    top = float(x.max())
    if top > 0:
        return x.clamp(min=SMALLEST * top)
    return torch.ones_like(x)


def _centered(scale: Tensor) -> Tensor:
    """Return scales divided by the geometric mean of their ends, as AWQ's code does."""
    return scale / (scale.max() * scale.min()).sqrt()
