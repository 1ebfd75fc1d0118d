"""GPTQ under a fixed mask. Frantar et al. 2023, arXiv 2210.17323; the mask is ours to hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from methods.contract import Job, Needs, Outcome
from methods.errors import UserError
from methods.grids import Integer, group_of, put
from methods.hessian import CurvedWalk, compensate_, inverse_factor
from methods.quantizing import Stored

GRID = Integer(4)
BLOCK = 128


def quantize_(weight: Tensor, keep: Tensor, factor: Tensor, group: int) -> None:
    """Round weight [out, in] to int4 in place, column by column; factor is U with U^T U = H^-1, [in, in].

    Where keep [out, in] is false a weight is settled on 0, and that error is handed on to the later columns like one of
    rounding: they move what is masked, too, and it may not stay so. A group's scale is that of its kept weights as they
    are when its first column is reached. Columns stay in their order (no act-order).
    """
    mask = keep.T  # [in, out]

    def settle(a: int, b: int, w: Tensor) -> Callable[[int, Tensor], Tensor]:
        scale = GRID.scale((w * mask[a:b]).T)[:, 0]  # [out]
        return lambda i, column: GRID.snap(column, scale).where(mask[a + i], 0)

    put(weight, compensate_(weight, factor, settle, group, group * max(1, BLOCK // group)))


@dataclass(frozen=True)
class Int4Gptq:
    """group: weights along the input with one scale; damping: fraction of H's mean diagonal added to it."""

    name: ClassVar[str] = "int4-gptq"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    group: int | None = None
    damping: float = 0.01

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if not 0 <= self.damping <= 1:
            raise UserError(f"int4-gptq:damping={self.damping} will not do: it is a fraction, from 0 to 1")
        walk = CurvedWalk(model, job, self.damping, inverse_factor)
        scales = 0
        for visit, factor in walk:
            out, width = visit.weight.shape
            group = group_of(width, self.group, 128, self.name)
            keep = visit.weight.new_ones(out, width).bool() if job.pattern.dense else visit.weight != 0
            quantize_(visit.weight, keep, factor, group)
            scales += out * (width // group)
        return walk.outcome(**Stored(bits=GRID.bits, scale_bits=GRID.scale_bits, scales=scales).told())
