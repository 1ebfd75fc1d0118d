"""Round to nearest: every weight by itself, nothing calibrated.

Ours and not a library's, since each is one grid of a few lines (methods/grids.py) and the default rows must need nothing
that may be missing; the tests hold them against torchao and bitsandbytes where these are installed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from methods.contract import Job, Needs, Outcome
from methods.pruning.walk import Walk
from methods.quantizing.grids import Float8, Grid, Integer, NormalFloat4, group_of, round_
from methods.quantizing.stored import Stored


@dataclass(frozen=True)
class _Rows:
    """One scale a row."""

    name: ClassVar[str]
    grid: ClassVar[Grid]
    needs: ClassVar[Needs] = Needs.NOTHING
    activations: ClassVar[int | None] = None

    def _group(self, width: int) -> int:
        return width

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        walk = Walk(model, job)
        scales = 0
        for visit in walk:
            scales += round_(visit.weight, self.grid, self._group(visit.weight.shape[1]))
        stored = Stored(bits=self.grid.bits, scale_bits=self.grid.scale_bits, scales=scales)
        return walk.outcome(**replace(stored, activations=self.activations).told())


@dataclass(frozen=True)
class _Groups(_Rows):
    """One scale for `group` weights along the input; None: the largest power of two up to `most` that divides it."""

    most: ClassVar[int] = 128
    group: int | None = None

    def _group(self, width: int) -> int:
        return group_of(width, self.group, self.most, self.name)


@dataclass(frozen=True)
class Int8(_Rows):
    name: ClassVar[str] = "int8"
    grid: ClassVar[Grid] = Integer(8)


@dataclass(frozen=True)
class W8A8(Int8):
    """int8 weights, and while the model runs the inputs of its targets are int8, too: the loader sees to it."""

    name: ClassVar[str] = "w8a8"
    activations: ClassVar[int | None] = 8


@dataclass(frozen=True)
class Fp8(_Rows):
    name: ClassVar[str] = "fp8"
    grid: ClassVar[Grid] = Float8()


@dataclass(frozen=True)
class Int4(_Groups):
    name: ClassVar[str] = "int4-rtn"
    grid: ClassVar[Grid] = Integer(4)


@dataclass(frozen=True)
class Int3(_Groups):
    name: ClassVar[str] = "int3-rtn"
    grid: ClassVar[Grid] = Integer(3)


@dataclass(frozen=True)
class Nf4(_Groups):
    """Dettmers et al. 2023, arXiv 2305.14314, without double quantization."""

    name: ClassVar[str] = "nf4"
    grid: ClassVar[Grid] = NormalFloat4()
    most: ClassVar[int] = 64
