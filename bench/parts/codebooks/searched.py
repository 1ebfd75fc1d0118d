"""Grids whose scales are searched: those of the least error, where others follow from the largest
weight of a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from bench.quantizers.gptq import OrderedFactor, largest_first, quantize
from methods.contract.info import Cost, MethodInfo
from methods.contract.method import Job, Needs, Outcome
from methods.contract.ranges import Count, Fraction
from methods.workshop.pruning.hessian import HessianWalk
from methods.workshop.pruning.walk import Walk
from methods.workshop.quantizing.grid_codec import GridCodec
from methods.workshop.quantizing.grids import Grid, Integer, NvFloat4, group_size
from methods.workshop.quantizing.weight_formats import NVFP4

FACTORS = tuple(1 - i / 40 for i in range(28))
"""Scales of integers that are tried, over the one of the largest weight."""
MOST = 128
"""Default number of weights along the input that share a scale of integers, if it divides the
width."""


def best_scale(
    grid: Grid,
    scale: Tensor,
    groups: Tensor,
    factors: Sequence[float],
    importance: Tensor | None = None,
) -> Tensor:
    """Return for each group the product of its scale and a factor that has the least squared error.

    Args:
        scale: float [..., 1], of weights `groups` [..., group].
        factors: the first of those with equal errors is taken.
        importance: of the error of each weight, broadcast to `groups`; None for equal ones.
    """
    best = torch.zeros_like(scale)
    least = torch.full_like(scale, torch.inf)
    for factor in factors:
        tried = grid.unpack_scale(grid.pack_scale(scale * factor))
        error = (grid.snap(groups, tried) - groups).square()
        if importance is not None:
            error *= importance
        total = error.sum(-1, keepdim=True)
        best = torch.where(total < least, tried, best)
        least = torch.minimum(total, least)
    return best


@dataclass(frozen=True)
class SearchedInteger(Integer):
    """Integers whose scales have the least error, weighed by an importance [in / group, group]."""

    importance: Tensor | None = None

    def scale(self, groups: Tensor) -> Tensor:
        return best_scale(self, super().scale(groups), groups, FACTORS, self.importance)


class FactorAndDiagonal(NamedTuple):
    """What GPTQ needs of a Hessian, and its diagonal [in]."""

    factor: OrderedFactor
    diagonal: Tensor


def factor_and_diagonal(hessian: Tensor, damping: float) -> tuple[FactorAndDiagonal, float]:
    """Factor the Hessian as GPTQ does with act-order, and return its diagonal too."""
    factor, used = largest_first(hessian, damping)
    return FactorAndDiagonal(factor, hessian.diagonal().clone()), used


@dataclass(frozen=True)
class Int3Searched:
    """int3-gptq with searched scales: those of the least error, weighed by the Hessian's diagonal.

    The fields are those of int3-gptq, always with act-order.
    """

    name: ClassVar[str] = "int3-searched"
    bits: ClassVar[int] = 3
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2210.17323", cost=Cost(passes=2, hessians=1, launches=9)
    )
    group: Count | None = None
    damping: Fraction = 0.01

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        walk = HessianWalk(model, job, self.damping, factor_and_diagonal)
        for visit, (factor, diagonal) in walk:
            group = group_size(visit.weight.shape[1], self.group, MOST, self.name)
            keep = visit.weight != 0
            if job.pattern.dense:
                keep = torch.ones_like(keep)
            grid = SearchedInteger(self.bits, diagonal.view(-1, group))
            found = quantize(visit.weight, keep, factor, group, grid)
            codec = GridCodec("integer", self.bits, group)
            visit.store(codec, codec.store(found.values, found.scales, found.grid))
        return walk.outcome()


class Int2Searched(Int3Searched):
    """2-bit integers by GPTQ with searched scales. The fields are those of int3-searched."""

    name = "int2-searched"
    bits = 2


class Int4Searched(Int3Searched):
    """int4-gptq with searched scales. The fields are those of int3-searched."""

    name = "int4-searched"
    bits = 4


@dataclass(frozen=True)
class FourOverSix(NvFloat4):
    """NVFP4 in which the largest weight of a group becomes 6, or 4 where that has the lower error.

    The scale of the tensor leaves room for scales that are 1.5 times as large.
    """

    def of(self, tensor: Tensor) -> FourOverSix:
        return FourOverSix(tensor_scale=float(tensor.abs().max()) / (6 * 256))

    def scale(self, groups: Tensor) -> Tensor:
        return best_scale(self, super().scale(groups), groups, (1, 1.5))


@dataclass(frozen=True)
class NvFp4FourOverSix:
    """NVFP4, where the largest weight of 16 becomes 6 or 4, whichever has the lower error."""

    name: ClassVar[str] = "nvfp4-46"
    needs: ClassVar[Needs] = Needs.NOTHING
    info: ClassVar[MethodInfo] = MethodInfo(paper="2512.02010")
    group: Count | None = None

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        walk, form = Walk(model, job), NVFP4.under(job.pattern)
        for visit in walk:
            group = group_size(visit.weight.shape[1], self.group, form.most, self.name)
            groups = visit.weight.float().contiguous().unflatten(-1, (-1, group))
            grid = FourOverSix().of(groups)
            codec = GridCodec.of(grid, group)
            scales = grid.scale(groups).squeeze(-1)
            visit.store(codec, codec.store(groups.flatten(-2), scales, grid))
        return walk.outcome()
