"""Rounding to the nearest value, without calibration.

The default rows must not need other libraries, and each grid is a few lines (methods/quantizing/grids.py). The tests
compare them with torchao and bitsandbytes if these are installed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from methods.contract import Job, Needs, Outcome
from methods.info import MethodInfo
from methods.pruning.walk import Walk
from methods.quantizing.grids import Float8, Grid, Integer, NormalFloat4, group_size, round_
from methods.quantizing.stored import Stored
from methods.ranges import Count


@dataclass(frozen=True)
class _PerRow:
    """One scale per row."""

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
        return walk.outcome(**replace(stored, activations=self.activations).notes())


@dataclass(frozen=True)
class _PerGroup(_PerRow):
    """One scale for `group` weights along the input. If `group` is None, `group_size` gives their number."""

    max_group: ClassVar[int] = 128
    group: Count | None = None

    def _group(self, width: int) -> int:
        return group_size(width, self.group, self.max_group, self.name)


@dataclass(frozen=True)
class Int8(_PerRow):
    """8-bit integers, one scale per row."""

    name: ClassVar[str] = "int8"
    grid: ClassVar[Grid] = Integer(8)


@dataclass(frozen=True)
class W8A8(Int8):
    """int8 weights, and int8 inputs per token.

    The loader also rounds the inputs of the targets to int8 while the model runs.
    """

    name: ClassVar[str] = "w8a8"
    activations: ClassVar[int | None] = 8


@dataclass(frozen=True)
class Fp8(_PerRow):
    """8-bit floats (e4m3), one scale per row."""

    name: ClassVar[str] = "fp8"
    grid: ClassVar[Grid] = Float8()


@dataclass(frozen=True)
class Int4(_PerGroup):
    """4-bit integers, one scale for up to 128 inputs."""

    name: ClassVar[str] = "int4-rtn"
    grid: ClassVar[Grid] = Integer(4)


@dataclass(frozen=True)
class Int3(_PerGroup):
    """3-bit integers, one scale for up to 128 inputs."""

    name: ClassVar[str] = "int3-rtn"
    grid: ClassVar[Grid] = Integer(3)


@dataclass(frozen=True)
class Nf4(_PerGroup):
    """4-bit normal quantiles, one scale for up to 64 inputs.

    As in QLoRA (Dettmers et al. 2023), without double quantization.
    """

    name: ClassVar[str] = "nf4"
    info: ClassVar[MethodInfo] = MethodInfo(paper="2305.14314")
    grid: ClassVar[Grid] = NormalFloat4()
    max_group: ClassVar[int] = 64
