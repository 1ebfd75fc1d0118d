"""Formats of quantized weights, and rounding to nearest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import nn

from methods.contract.method import Job, Needs, Outcome
from methods.contract.pattern import Pattern
from methods.contract.ranges import Count
from methods.workshop.pruning.walk import Walk
from methods.workshop.quantizing.grid_codec import GridCodec
from methods.workshop.quantizing.grids import (
    Float8,
    Grid,
    Integer,
    Microscaling,
    NormalFloat4,
    NvFloat4,
    group_size,
)
from methods.workshop.quantizing.inputs import ACTIVATIONS_KEY


class Format(NamedTuple):
    """Grid of the weights, and the format of the inputs."""

    grid: Grid
    most: int = 0
    """Default number of weights along the input that share a scale, if it divides the width. 0: a
    row."""
    inputs: str = ""
    """Format of the targets' inputs, a key of INPUT_FORMATS; "" if they are not rounded."""
    input_bits: int | None = None
    has_hardware_blocks: bool = False
    """True if tensor cores multiply by the scales. Under pairs a scale covers twice as many inputs
    (CUTLASS, Blackwell functionality)."""

    def under(self, pattern: Pattern) -> Format:
        """Return the format of a weight with a pattern."""
        if pattern.unit == 1 or not self.has_hardware_blocks:
            return self
        inputs = f"{self.inputs}-pairs" if self.inputs else ""
        return self._replace(most=self.most * pattern.unit, inputs=inputs)

    def codec(self, width: int, requested: int | None, name: str) -> GridCodec:
        """Return the codec of a weight with `width` inputs. requested, name: as in `group_size`,
        which may raise UserError."""
        group = group_size(width, requested, self.most, name) if self.most else width
        return GridCodec.of(self.grid, group)

    def scale_bits(self, out: int, width: int, group: int) -> int:
        """Return the bits of all scales of a weight [out, width]."""
        return out * (width // group) * self.grid.scale_bits + self.grid.tensor_bits


INT8 = Format(Integer(8))
W8A8 = Format(Integer(8), inputs="int8", input_bits=8)
FP8 = Format(Float8())
INT4 = Format(Integer(4), 128)
INT3 = Format(Integer(3), 128)
NF4 = Format(NormalFloat4(), 64)
MXFP8 = Format(Microscaling(8), 32)
MXFP4 = Format(Microscaling(4), 32, has_hardware_blocks=True)
MXFP4_W4A4 = Format(Microscaling(4), 32, "mxfp4", 4, has_hardware_blocks=True)
NVFP4 = Format(NvFloat4(), 16, has_hardware_blocks=True)
NVFP4_W4A4 = Format(NvFloat4(), 16, "nvfp4", 4, has_hardware_blocks=True)


@dataclass(frozen=True)
class RoundToNearest:
    """Round every weight to the nearest point of a format's grid. A subclass states its name and
    format."""

    name: ClassVar[str]
    needs: ClassVar[Needs] = Needs.NOTHING
    format: ClassVar[Format]

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        walk, requested = Walk(model, job), getattr(self, "group", None)
        form = self.format.under(job.pattern)
        for visit in walk:
            codec = form.codec(visit.weight.shape[1], requested, self.name)
            visit.store(codec, codec.encode(visit.weight))
        outcome = walk.outcome()
        if not form.inputs:
            return outcome
        inputs = {"format": form.inputs, "bits": form.input_bits, "targets": list(job.targets)}
        return outcome._replace(config={ACTIVATIONS_KEY: inputs})


@dataclass(frozen=True)
class RoundInGroups(RoundToNearest):
    """Round to nearest, with a scale for `group` weights along the input; None for the format's
    default."""

    group: Count | None = None
