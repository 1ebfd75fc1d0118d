"""GPTQ under a fixed mask. Frantar et al. 2023, arXiv 2210.17323. The mask is an addition of this
project."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from methods.contract.info import Cost, MethodInfo
from methods.contract.method import Job, Needs, Outcome
from methods.contract.ranges import Count, Fraction
from methods.workshop.pruning.hessian import HessianWalk, compensate_, inverse_factor
from methods.workshop.quantizing import weight_formats
from methods.workshop.quantizing.grids import Grid, Integer
from methods.workshop.quantizing.weight_formats import Format

BLOCK = 128
INT4 = Integer(4)


class OrderedFactor(NamedTuple):
    """Inverse of a linear's Hessian, factored in the order in which its columns are quantized."""

    factor: Tensor
    """Upper triangular U, [in, in], with U^T U = H^-1 and the inputs in `order`."""
    order: Tensor | None
    """Order of the columns, [in]; None for left to right."""


def largest_first(hessian: Tensor, damping: float) -> tuple[OrderedFactor, float]:
    """Factor the Hessian with the largest diagonal first (act-order), so that most columns
    compensate its error."""
    order = hessian.diagonal().argsort(descending=True, stable=True)
    factor, used = inverse_factor(hessian[order][:, order], damping)
    return OrderedFactor(factor, order), used


def left_to_right(hessian: Tensor, damping: float) -> tuple[OrderedFactor, float]:
    """Factor the Hessian in the order of the columns."""
    factor, used = inverse_factor(hessian, damping)
    return OrderedFactor(factor, None), used


class Quantized(NamedTuple):
    """A weight on a grid."""

    values: Tensor
    """Points times their scales, float32 [out, in]."""
    scales: Tensor
    """Scale of each group, float32 [out, in / group]."""
    grid: Grid
    """The grid, with the tensor's own scale if it has one."""


def quantize(
    weight: Tensor, keep: Tensor, prepared: OrderedFactor, group: int, grid: Grid = INT4
) -> Quantized:
    """Round weight [out, in] to points of a grid, column by column.

    A weight becomes 0 if keep [out, in] is false, and later columns compensate this error like a
    rounding error. Until its column is reached, compensation changes such a weight too. The scale
    of a group depends on its kept weights: on their values when the loop reaches its first column,
    or, in another order of columns, on their initial values.
    """
    order, grid = prepared.order, grid.of(weight.float() * keep)
    if order is None:
        mask = keep.T  # [in, out]
        found: list[Tensor] = []

        def column_quantizer(a: int, b: int, w: Tensor) -> Callable[[int, Tensor], Tensor]:
            scale = grid.scale((w * mask[a:b]).T)[:, 0]  # [out]
            found.append(scale)
            return lambda i, column: grid.snap(column, scale).where(mask[a + i], 0)

        values = compensate_(
            weight, prepared.factor, column_quantizer, group, group * max(1, BLOCK // group)
        )
        return Quantized(values, torch.stack(found, 1), grid)
    scales = grid.scale((weight.float() * keep).unflatten(1, (-1, group)))[..., 0]
    by_group = scales.T.contiguous()  # [groups, out]
    groups, mask = (order // group).tolist(), keep.T[order]

    def ordered_quantizer(a: int, b: int, w: Tensor) -> Callable[[int, Tensor], Tensor]:
        return lambda i, column: grid.snap(column, by_group[groups[a + i]]).where(mask[a + i], 0)

    values = compensate_(weight[:, order], prepared.factor, ordered_quantizer, BLOCK, BLOCK)
    return Quantized(values[:, order.argsort()], scales, grid)


@dataclass(frozen=True)
class Int4Gptq:
    """int4, GPTQ with act-order under a fixed mask; also compensates the pruning error.

    group: number of weights along the input that share a scale. damping: fraction of H's mean
    diagonal that is added to the diagonal. act_order: quantize the columns with the largest
    diagonal first, with groups in the order of the columns; otherwise from left to right as in the
    paper.
    """

    name: ClassVar[str] = "int4-gptq"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    shares_calibration: ClassVar[bool] = True
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2210.17323", cost=Cost(passes=2, hessians=1, launches=9)
    )
    format: ClassVar[Format] = weight_formats.INT4
    group: Count | None = None
    damping: Fraction = 0.01
    act_order: bool = True

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        order = largest_first if self.act_order else left_to_right
        walk = HessianWalk(model, job, self.damping, order)
        form = self.format.under(job.pattern)
        for visit, prepared in walk:
            out, width = visit.weight.shape
            codec = form.codec(width, self.group, self.name)
            keep = (
                visit.weight.new_ones(out, width).bool() if job.pattern.dense else visit.weight != 0
            )
            found = quantize(visit.weight, keep, prepared, codec.group, form.grid)
            visit.store(codec, codec.store(found.values, found.scales, found.grid))
        return walk.outcome()


class Int3Gptq(Int4Gptq):
    """int3, GPTQ with act-order under a fixed mask. The fields are those of int4-gptq."""

    name = "int3-gptq"
    format = weight_formats.INT3


class MxFp4Gptq(Int4Gptq):
    """MXFP4, GPTQ with act-order under a fixed mask. The fields are those of int4-gptq."""

    name = "mxfp4-gptq"
    format = weight_formats.MXFP4


class NvFp4Gptq(Int4Gptq):
    """NVFP4, GPTQ with act-order under a fixed mask. The fields are those of int4-gptq."""

    name = "nvfp4-gptq"
    format = weight_formats.NVFP4
