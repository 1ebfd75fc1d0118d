"""Rounding to the nearest value, without calibration.

The default rows must not need other libraries, and each grid is a few lines (methods/quantizing/grids.py). The tests
compare them with torchao and bitsandbytes if these are installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from bench.quantizers.formats import format_of
from methods.contract import Job, Needs, Outcome
from methods.info import MethodInfo
from methods.pruning.walk import Walk
from methods.quantizing.grids import round_
from methods.quantizing.stored import ACTIVATIONS_KEY, Stored
from methods.ranges import Count


@dataclass(frozen=True)
class Int8:
    """8-bit integers, one scale per row."""

    name: ClassVar[str] = "int8"
    needs: ClassVar[Needs] = Needs.NOTHING

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        walk, form, requested = Walk(model, job), format_of(self.name), getattr(self, "group", None)
        scales = 0
        for visit in walk:
            out, width = visit.weight.shape
            group = form.group(width, requested, self.name)
            round_(visit.weight, form.grid, group)
            scales += form.count_scales(out, width, group)
        grid, inputs = form.grid, {"format": form.inputs, "bits": form.input_bits, "targets": list(job.targets)}
        stored = Stored(bits=grid.bits, scale_bits=grid.scale_bits, scales=scales, activations=form.input_bits)
        outcome = walk.outcome(**stored.notes())
        return outcome._replace(config={ACTIVATIONS_KEY: inputs}) if form.inputs else outcome


class W8A8(Int8):
    """int8 weights, and int8 inputs per token.

    The loader also rounds the inputs of the targets to int8 while the model runs.
    """

    name = "w8a8"


class W8A8Smooth(W8A8):
    """w8a8 after `smooth`: SmoothQuant."""

    name = "w8a8-smooth"
    info: ClassVar[MethodInfo] = MethodInfo(paper="2211.10438", after="smooth")


class Fp8(Int8):
    """8-bit floats (e4m3), one scale per row."""

    name = "fp8"


@dataclass(frozen=True)
class Int4(Int8):
    """4-bit integers, one scale for up to 128 inputs."""

    name: ClassVar[str] = "int4-rtn"
    group: Count | None = None


class Int4Awq(Int4):
    """int4-rtn after `awq`, with the same group."""

    name = "int4-awq"
    info: ClassVar[MethodInfo] = MethodInfo(paper="2306.00978", after="awq:bits=4")


class Int3(Int4):
    """3-bit integers, one scale for up to 128 inputs."""

    name = "int3-rtn"


class Nf4(Int4):
    """4-bit normal quantiles, one scale for up to 64 inputs.

    As in QLoRA (Dettmers et al. 2023), without double quantization.
    """

    name = "nf4"
    info: ClassVar[MethodInfo] = MethodInfo(paper="2305.14314")


class MxFp8(Int4):
    """MXFP8 (e4m3), a power of two as the scale of 32 inputs. OCP Microscaling Formats 1.0."""

    name = "mxfp8"


class MxFp4(Int4):
    """MXFP4 (e2m1), a power of two as the scale of 32 inputs. OCP Microscaling Formats 1.0."""

    name = "mxfp4"


class MxFp4W4A4(Int4):
    """MXFP4 weights, and inputs rounded to MXFP4 while the model runs."""

    name = "mxfp4-w4a4"


class NvFp4(Int4):
    """NVFP4 (e2m1), a scale in e4m3 for 16 inputs and one in float32 for the tensor."""

    name = "nvfp4"


class NvFp4W4A4(Int4):
    """NVFP4 weights, and inputs rounded to NVFP4 while the model runs, each token with its own scale in float32."""

    name = "nvfp4-w4a4"
