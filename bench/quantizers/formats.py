"""The formats of quantized weights: one table for rounding, GPTQ and exports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from methods.quantizing.grids import Float8, Grid, Integer, Microscaling, NormalFloat4, NvFloat4, group_size


class Format(NamedTuple):
    """Grid of the weights, and the format of the inputs."""

    grid: Grid
    most: int = 0
    """Default of the number of weights along the input that share a scale, where it divides the width; 0: a row."""
    inputs: str = ""
    """Format of the targets' inputs, a key of INPUT_FORMATS; "" if they are not rounded."""
    input_bits: int | None = None

    def group(self, width: int, requested: int | None, name: str) -> int:
        """Return the number of weights that share a scale. See `group_size`."""
        return group_size(width, requested, self.most, name) if self.most else width

    def count_scales(self, out: int, width: int, group: int) -> int:
        """Return the number of scales of a weight [out, width]. The scale of a tensor counts as several of its groups'."""
        return out * (width // group) + self.grid.tensor_bits // self.grid.scale_bits


FORMATS: Mapping[str, Format] = {
    "int8": Format(Integer(8)),
    "w8a8": Format(Integer(8), inputs="int8", input_bits=8),
    "fp8": Format(Float8()),
    "int4": Format(Integer(4), 128),
    "int3": Format(Integer(3), 128),
    "nf4": Format(NormalFloat4(), 64),
    "mxfp8": Format(Microscaling(8), 32),
    "mxfp4": Format(Microscaling(4), 32),
    "mxfp4-w4a4": Format(Microscaling(4), 32, "mxfp4", 4),
    "nvfp4": Format(NvFloat4(), 16),
    "nvfp4-w4a4": Format(NvFloat4(), 16, "nvfp4", 4),
}
"""Formats by name of a quantizer, without the way in which it rounds."""


def format_of(quantizer: str) -> Format:
    """Return the format of a quantizer of this project: that of int4-gptq is int4."""
    return FORMATS[quantizer if quantizer in FORMATS else quantizer.rpartition("-")[0]]
