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
from methods.quantizing.grids import Float8, Grid, Integer, Microscaling, NormalFloat4, NvFloat4, group_size, round_
from methods.quantizing.stored import ACTIVATIONS_KEY, Stored
from methods.ranges import Count


@dataclass(frozen=True)
class _PerRow:
    """One scale per row."""

    name: ClassVar[str]
    grid: ClassVar[Grid]
    needs: ClassVar[Needs] = Needs.NOTHING
    inputs: ClassVar[str] = ""
    """Format of the targets' inputs, a key of INPUT_FORMATS; "" if they are not rounded."""
    input_bits: ClassVar[int | None] = None

    def _group(self, width: int) -> int:
        return width

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        walk = Walk(model, job)
        scales = 0
        for visit in walk:
            scales += round_(visit.weight, self.grid, self._group(visit.weight.shape[1]))
        stored = Stored(bits=self.grid.bits, scale_bits=self.grid.scale_bits, scales=scales)
        outcome = walk.outcome(**replace(stored, activations=self.input_bits).notes())
        inputs = {"format": self.inputs, "bits": self.input_bits, "targets": list(job.targets)}
        return outcome._replace(config={ACTIVATIONS_KEY: inputs}) if self.inputs else outcome


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
    inputs: ClassVar[str] = "int8"
    input_bits: ClassVar[int | None] = 8


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


@dataclass(frozen=True)
class MxFp8(_PerGroup):
    """MXFP8 (e4m3), a power of two as the scale of 32 inputs. OCP Microscaling Formats 1.0."""

    name: ClassVar[str] = "mxfp8"
    grid: ClassVar[Grid] = Microscaling(8)
    max_group: ClassVar[int] = 32


@dataclass(frozen=True)
class MxFp4(_PerGroup):
    """MXFP4 (e2m1), a power of two as the scale of 32 inputs. OCP Microscaling Formats 1.0."""

    name: ClassVar[str] = "mxfp4"
    grid: ClassVar[Grid] = Microscaling(4)
    max_group: ClassVar[int] = 32


@dataclass(frozen=True)
class MxFp4W4A4(MxFp4):
    """MXFP4 weights, and inputs rounded to MXFP4 while the model runs."""

    name: ClassVar[str] = "mxfp4-w4a4"
    inputs: ClassVar[str] = "mxfp4"
    input_bits: ClassVar[int | None] = 4


@dataclass(frozen=True)
class NvFp4(_PerGroup):
    """NVFP4 (e2m1), a scale in e4m3 for 16 inputs and one in float32 for the tensor."""

    name: ClassVar[str] = "nvfp4"
    grid: ClassVar[Grid] = NvFloat4()
    max_group: ClassVar[int] = 16


@dataclass(frozen=True)
class NvFp4W4A4(NvFp4):
    """NVFP4 weights, and inputs rounded to NVFP4 while the model runs, each token with its own scale in float32."""

    name: ClassVar[str] = "nvfp4-w4a4"
    inputs: ClassVar[str] = "nvfp4"
    input_bits: ClassVar[int | None] = 4
