"""Quantizers of llm-compressor, called as its users call them. Each breaks 2:4, and its row shows
by how much.

The library is no dependency. If it is missing, the row is skipped and says what to install.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import nn

from bench.parts.compressed_tensors.codec import CompressedTensorsCodec
from bench.system.grouping import group_by
from methods.contract.errors import Skipped
from methods.contract.info import MethodInfo
from methods.contract.method import Job, Needs, Outcome
from methods.contract.ranges import Count
from methods.model.targets import dense_weight
from methods.workshop.library_calls import import_library, import_modifier, oneshot, require_oneshot
from methods.workshop.pruning.walk import Walk
from methods.workshop.quantizing import weight_formats
from methods.workshop.quantizing.weight_formats import Format


class WeightFormat(NamedTuple):
    """Format of weights in llm-compressor. `args` are QuantizationArgs of compressed-tensors."""

    args: Mapping[str, Any]
    form: Format


INT4 = WeightFormat(
    {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group"}, weight_formats.INT4
)
NVFP4 = WeightFormat({"scheme": "NVFP4A16"}, weight_formats.NVFP4)
MXFP4 = WeightFormat({"scheme": "MXFP4A16"}, weight_formats.MXFP4)


class _LlmCompressor:
    """A modifier of llm-compressor, given the format of the weights."""

    name: ClassVar[str]
    modifier: ClassVar[str]
    weights: ClassVar[WeightFormat]

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        require_oneshot(job)
        quantized = copy.deepcopy(model)
        sizes = self._groups(
            {t: tuple(dense_weight(quantized.get_submodule(t)).shape) for t in job.targets}
        )
        by_size = group_by(job.targets, sizes.__getitem__)
        oneshot(quantized, job, self._recipe(dict(sorted(by_size.items()))))
        walk = Walk(model, job)
        for visit in walk:
            visit.store(*CompressedTensorsCodec.of(quantized.get_submodule(visit.name)))
        return walk.outcome()

    def _groups(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
        """Return the number of weights that share a scale, by linear. Raise Skipped if the library
        cannot quantize one."""
        most = self.weights.form.most
        odd = next((t for t, (_, width) in shapes.items() if width % most), None)
        if odd:
            raise Skipped(
                f"{self.name} has groups of {most}, and {odd} has {shapes[odd][1]} inputs"
            )
        return dict.fromkeys(shapes, most)

    def _settings(self) -> dict[str, Any]:
        """Return settings of the modifier besides the format."""
        return {}

    def _recipe(self, targets: Mapping[int, Sequence[str]]) -> Any:
        """Return the modifier. targets: names of linears by group size."""
        modifier = import_modifier(self.modifier)
        preset = self.weights.args.get("scheme")
        every: list[str] = []
        groups = {}
        for size, names in targets.items():
            regexes = [f"re:^{re.escape(name)}$" for name in names]
            every += regexes
            weights = dict(self.weights.args) | {"group_size": size}
            groups[f"group_{size}"] = {"targets": regexes, "weights": weights}
        if preset:
            return modifier(targets=every, scheme=preset, **self._settings())
        return modifier(config_groups=groups, **self._settings())


@dataclass(frozen=True)
class LlmCompressorGptq(_LlmCompressor):
    """int4 of llm-compressor; breaks the pattern, shown for comparison.

    This is GPTQModifier, W4 symmetric in groups. It does not know the mask.
    """

    name: ClassVar[str] = "llmcompressor-gptq"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(paper="2210.17323", extra="llmcompressor")
    modifier: ClassVar[str] = "gptq.GPTQModifier"
    weights: ClassVar[WeightFormat] = INT4
    group: Count | None = None

    def _groups(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
        return {
            t: self.weights.form.codec(width, self.group, self.name).group
            for t, (_, width) in shapes.items()
        }


@dataclass(frozen=True)
class LlmCompressorNvFp4(_LlmCompressor):
    """NVFP4 of llm-compressor, rounded to nearest; shown for comparison. QuantizationModifier with
    NVFP4A16."""

    name: ClassVar[str] = "llmcompressor-nvfp4"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(extra="llmcompressor")
    modifier: ClassVar[str] = "quantization.QuantizationModifier"
    weights: ClassVar[WeightFormat] = NVFP4


class LlmCompressorMxFp4(LlmCompressorNvFp4):
    """MXFP4 of llm-compressor, rounded to nearest; shown for comparison. QuantizationModifier with
    MXFP4A16."""

    name = "llmcompressor-mxfp4"
    weights = MXFP4


@dataclass(frozen=True)
class AutoRound(LlmCompressorGptq):
    """int4 of auto-round, by llm-compressor; breaks the pattern, shown for comparison.

    This is AutoRoundModifier, W4 symmetric in groups of one size: learned rounding, block by block.
    It leaves out linears whose sides are not multiples of 32, so a model that has one is skipped.
    steps: of each block.
    """

    name: ClassVar[str] = "auto-round"
    info: ClassVar[MethodInfo] = MethodInfo(paper="2309.05516", extra="llmcompressor")
    modifier: ClassVar[str] = "autoround.AutoRoundModifier"
    steps: Count = 200

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        import_library("auto_round", "llmcompressor")
        return super().apply(model, job)

    def _groups(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
        odd = next((t for t, (out, width) in shapes.items() if out % 32 or width % 32), None)
        if odd:
            out, width = shapes[odd]
            raise Skipped(
                f"auto-round leaves out linears whose sides are not multiples of 32: {odd} is "
                f"{out} x {width}"
            )
        # It reads the scales of all linears of a block with one size.
        return dict.fromkeys(shapes, min(super()._groups(shapes).values()))

    def _settings(self) -> dict[str, Any]:
        return {"iters": self.steps}
