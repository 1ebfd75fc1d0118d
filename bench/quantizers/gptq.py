"""GPTQ under a fixed mask. Frantar et al. 2023, arXiv 2210.17323; the mask is an addition of this project."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from methods.contract import Job, Needs, Outcome
from methods.info import MethodInfo
from methods.pruning.hessian import HessianWalk, compensate_, inverse_factor
from methods.quantizing.grids import Integer, assign_, group_size
from methods.quantizing.stored import Stored
from methods.ranges import Count, Fraction

GRID = Integer(4)
BLOCK = 128


class OrderedFactor(NamedTuple):
    """What the Hessian of a linear's inputs is prepared to."""

    factor: Tensor
    """U, upper triangular, with U^T U = H^-1, inputs in `order`; [in, in]"""
    order: Tensor | None
    """[in], the inputs in the order in which their columns are quantized; None: from left to right"""


def largest_first(hessian: Tensor, damping: float) -> tuple[OrderedFactor, float]:
    """Inputs with the largest diagonal first (act-order), so that most columns are left to compensate their error."""
    order = hessian.diagonal().argsort(descending=True, stable=True)
    factor, used = inverse_factor(hessian[order][:, order], damping)
    return OrderedFactor(factor, order), used


def left_to_right(hessian: Tensor, damping: float) -> tuple[OrderedFactor, float]:
    """Inputs in the order of the columns."""
    factor, used = inverse_factor(hessian, damping)
    return OrderedFactor(factor, None), used


def quantize_(weight: Tensor, keep: Tensor, prepared: OrderedFactor, group: int) -> None:
    """Round weight [out, in] to int4 in place, column by column.

    Where keep [out, in] is false a weight becomes 0, and later columns compensate this error like a rounding error.
    (Compensation changes pruned weights too, until their column is reached and they become 0.) The scale of a group is
    that of its kept weights: of their values when its first column is reached, or, with another order of columns, of
    their initial values.
    """
    order = prepared.order
    if order is None:
        mask = keep.T  # [in, out]

        def column_quantizer(a: int, b: int, w: Tensor) -> Callable[[int, Tensor], Tensor]:
            scale = GRID.scale((w * mask[a:b]).T)[:, 0]  # [out]
            return lambda i, column: GRID.snap(column, scale).where(mask[a + i], 0)

        assign_(weight, compensate_(weight, prepared.factor, column_quantizer, group, group * max(1, BLOCK // group)))
        return
    scales = GRID.scale((weight.float() * keep).unflatten(1, (-1, group)))[..., 0].T.contiguous()  # [groups, out]
    groups, mask = (order // group).tolist(), keep.T[order]

    def ordered_quantizer(a: int, b: int, w: Tensor) -> Callable[[int, Tensor], Tensor]:
        return lambda i, column: GRID.snap(column, scales[groups[a + i]]).where(mask[a + i], 0)

    quantized = compensate_(weight[:, order], prepared.factor, ordered_quantizer, BLOCK, BLOCK)
    assign_(weight, quantized[:, order.argsort()])


@dataclass(frozen=True)
class Int4Gptq:
    """int4, GPTQ with act-order under a fixed mask; also compensates the pruning error.

    group: weights along the input that share a scale; damping: share of H's mean diagonal that is added to the
    diagonal; act_order: columns of the inputs with the largest diagonal first, with groups in the order of the columns;
    else from left to right as in the paper.
    """

    name: ClassVar[str] = "int4-gptq"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    shares_calibration: ClassVar[bool] = True
    info: ClassVar[MethodInfo] = MethodInfo(paper="2210.17323")
    group: Count | None = None
    damping: Fraction = 0.01
    act_order: bool = True

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        walk = HessianWalk(model, job, self.damping, largest_first if self.act_order else left_to_right)
        scales = 0
        for visit, prepared in walk:
            out, width = visit.weight.shape
            group = group_size(width, self.group, 128, self.name)
            keep = visit.weight.new_ones(out, width).bool() if job.pattern.dense else visit.weight != 0
            quantize_(visit.weight, keep, prepared, group)
            scales += out * (width // group)
        (total,) = walk.total(scales)
        return walk.outcome(**Stored(bits=GRID.bits, scale_bits=GRID.scale_bits, scales=int(total)).notes())
