"""GPTQ under a fixed mask. Frantar et al. 2023, arXiv 2210.17323; the mask is ours to hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from methods.contract import Job, Needs, Outcome
from methods.errors import UserError
from methods.pruning.hessian import HessianWalk, compensate_, inverse_factor
from methods.quantizing.grids import Integer, group_of, put
from methods.quantizing.stored import Stored

GRID = Integer(4)
BLOCK = 128


class Prepared(NamedTuple):
    factor: Tensor
    """U, upper triangular, with U^T U = H^-1, its inputs in `order`; [in, in]"""
    order: Tensor | None
    """[in], which input comes when; None: as they lie"""


def by_activation(hessian: Tensor, damping: float) -> tuple[Prepared, float]:
    """The loudest inputs first, so that what rounding them costs has the most others to make up for it."""
    order = hessian.diagonal().argsort(descending=True, stable=True)
    factor, took = inverse_factor(hessian[order][:, order], damping)
    return Prepared(factor, order), took


def as_they_lie(hessian: Tensor, damping: float) -> tuple[Prepared, float]:
    factor, took = inverse_factor(hessian, damping)
    return Prepared(factor, None), took


def quantize_(weight: Tensor, keep: Tensor, ready: Prepared, group: int) -> None:
    """Round weight [out, in] to int4 in place, column by column.

    Where keep [out, in] is false a weight is settled on 0, and that error is handed on to the later columns like one of
    rounding: they move what is masked, too, and it may not stay so. A group's scale is that of its kept weights: as they
    are when its first column is reached, or, where columns have an order of their own, as they were given.
    """
    order = ready.order
    if order is None:
        mask = keep.T  # [in, out]

        def settle(a: int, b: int, w: Tensor) -> Callable[[int, Tensor], Tensor]:
            scale = GRID.scale((w * mask[a:b]).T)[:, 0]  # [out]
            return lambda i, column: GRID.snap(column, scale).where(mask[a + i], 0)

        put(weight, compensate_(weight, ready.factor, settle, group, group * max(1, BLOCK // group)))
        return
    scales = GRID.scale((weight.float() * keep).unflatten(1, (-1, group)))[..., 0].T.contiguous()  # [groups, out]
    places, turned = (order // group).tolist(), keep.T[order]

    def settle_in_order(a: int, b: int, w: Tensor) -> Callable[[int, Tensor], Tensor]:
        return lambda i, column: GRID.snap(column, scales[places[a + i]]).where(turned[a + i], 0)

    done = compensate_(weight[:, order], ready.factor, settle_in_order, BLOCK, BLOCK)
    put(weight, done[:, order.argsort()])


@dataclass(frozen=True)
class Int4Gptq:
    """group: weights along the input with one scale; damping: fraction of H's mean diagonal added to it; act_order: the
    inputs with the largest diagonal first, groups staying where they lie; else from left to right as in the paper."""

    name: ClassVar[str] = "int4-gptq"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    group: int | None = None
    damping: float = 0.01
    act_order: bool = True

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if not 0 <= self.damping <= 1:
            raise UserError(f"int4-gptq:damping={self.damping} will not do: it is a fraction, from 0 to 1")
        walk = HessianWalk(model, job, self.damping, by_activation if self.act_order else as_they_lie)
        scales = 0
        for visit, ready in walk:
            out, width = visit.weight.shape
            group = group_of(width, self.group, 128, self.name)
            keep = visit.weight.new_ones(out, width).bool() if job.pattern.dense else visit.weight != 0
            quantize_(visit.weight, keep, ready, group)
            scales += out * (width // group)
        return walk.outcome(**Stored(bits=GRID.bits, scale_bits=GRID.scale_bits, scales=scales).told())
