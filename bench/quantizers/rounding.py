"""Rounding to the nearest value, without calibration.

The default rows must not need other libraries, and each grid is a few lines. Points are in
methods/workshop/quantizing/grids.py, and groups in weight_formats.py beside it. The tests compare
them with torchao and bitsandbytes if these are installed.
"""

from __future__ import annotations

from typing import ClassVar

from methods.contract.info import MethodInfo
from methods.workshop.quantizing import weight_formats
from methods.workshop.quantizing.weight_formats import RoundInGroups, RoundToNearest


class Int8(RoundToNearest):
    """8-bit integers, one scale per row."""

    name = "int8"
    format = weight_formats.INT8


class W8A8(RoundToNearest):
    """int8 weights, and int8 inputs per token.

    The loader also rounds the inputs of the targets to int8 while the model runs.
    """

    name = "w8a8"
    format = weight_formats.W8A8


class W8A8Smooth(W8A8):
    """w8a8 after `smooth`: SmoothQuant."""

    name = "w8a8-smooth"
    info: ClassVar[MethodInfo] = MethodInfo(paper="2211.10438", after="smooth")


class Fp8(RoundToNearest):
    """8-bit floats (e4m3), one scale per row."""

    name = "fp8"
    format = weight_formats.FP8


class Int4(RoundInGroups):
    """4-bit integers, one scale for up to 128 inputs."""

    name = "int4-rtn"
    format = weight_formats.INT4


class Int4Awq(Int4):
    """int4-rtn after `awq`, with the same group."""

    name = "int4-awq"
    info: ClassVar[MethodInfo] = MethodInfo(paper="2306.00978", after="awq:bits=4")


class Int3(RoundInGroups):
    """3-bit integers, one scale for up to 128 inputs."""

    name = "int3-rtn"
    format = weight_formats.INT3


class Nf4(RoundInGroups):
    """4-bit normal quantiles, one scale for up to 64 inputs.

    As in QLoRA (Dettmers et al. 2023), without double quantization.
    """

    name = "nf4"
    format = weight_formats.NF4
    info: ClassVar[MethodInfo] = MethodInfo(paper="2305.14314")


class MxFp8(RoundInGroups):
    """MXFP8 (e4m3), a power of two as the scale of 32 inputs. OCP Microscaling Formats 1.0."""

    name = "mxfp8"
    format = weight_formats.MXFP8


class MxFp4(RoundInGroups):
    """MXFP4 (e2m1), a power of two as the scale of 32 inputs. OCP Microscaling Formats 1.0."""

    name = "mxfp4"
    format = weight_formats.MXFP4


class MxFp4W4A4(RoundInGroups):
    """MXFP4 weights, and inputs rounded to MXFP4 while the model runs."""

    name = "mxfp4-w4a4"
    format = weight_formats.MXFP4_W4A4


class NvFp4(RoundInGroups):
    """NVFP4 (e2m1), a scale in e4m3 for 16 inputs and one in float32 for the tensor."""

    name = "nvfp4"
    format = weight_formats.NVFP4


class NvFp4W4A4(RoundInGroups):
    """NVFP4 weights, and inputs rounded to NVFP4 while the model runs, each token with its own
    scale in float32."""

    name = "nvfp4-w4a4"
    format = weight_formats.NVFP4_W4A4
