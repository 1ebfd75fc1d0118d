"""Quantizers of other libraries, called as their users call them. Each breaks 2:4, and its row
shows by how much.

None of the libraries is a dependency. If one is missing, the row is skipped and says what to
install.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from bench.formats.compressed_tensors import compress
from methods.contract.codec import Storage
from methods.contract.errors import Skipped
from methods.contract.info import MethodInfo
from methods.contract.method import Job, Needs, Outcome
from methods.contract.ranges import Count
from methods.model.targets import dense_weight
from methods.workshop.library_calls import import_library, import_modifier, oneshot, require_oneshot
from methods.workshop.pruning.walk import Walk
from methods.workshop.quantizing import weight_formats
from methods.workshop.quantizing.grids import group_size
from methods.workshop.quantizing.weight_formats import Format


@dataclass(frozen=True)
class Hqq:
    """int4 of hqq; breaks the pattern, shown for comparison.

    Half-quadratic quantization to int4 with a float zero point. Badri & Shaji 2023; the library
    `hqq`.
    """

    name: ClassVar[str] = "hqq"
    needs: ClassVar[Needs] = Needs.NOTHING
    info: ClassVar[MethodInfo] = MethodInfo(extra="hqq")
    group: Count | None = None

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        quantizer = import_library("hqq.core.quantize", "hqq").Quantizer
        walk = Walk(model, job)
        for visit in walk:
            w = visit.weight
            group = group_size(w.shape[1], self.group, 64, self.name)
            packed, info = quantizer.quantize(
                w.float().contiguous(),
                nbits=4,
                group_size=group,
                axis=1,
                device=str(w.device),
                compute_dtype=torch.float32,
            )
            codes = quantizer.unpack[info["packing"]](packed).view(w.shape)
            # in float16, as models of this library store both
            scales, zeros = (info[part].half().view(len(w), -1) for part in ("scale", "zero"))
            visit.store(AffineCodec(4, group), {"codes": codes, "scales": scales, "zeros": zeros})
        return walk.outcome()


@dataclass(frozen=True)
class AffineCodec:
    """Codes less a zero point, times a scale, for each group of weights along the input.

    Parts: `codes` uint8 [out, in]; `scales` and `zeros` float16 [out, in / group].
    """

    name: ClassVar[str] = "affine"
    width: int
    """Bits of a code."""
    group: int

    @property
    def bits(self) -> Mapping[str, int]:
        return {"codes": self.width}

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        scales, zeros = (parts[part].float().unsqueeze(-1) for part in ("scales", "zeros"))
        groups = parts["codes"].float().unflatten(-1, (-1, self.group))
        weight: Tensor = groups.sub_(zeros).mul_(scales).flatten(-2)
        return weight


@dataclass(frozen=True)
class TorchaoInt4:
    """int4 of torchao; breaks the pattern, shown for comparison.

    This is Int4WeightOnlyConfig with its defaults: a float zero point, packed for a CUDA kernel.
    """

    name: ClassVar[str] = "torchao-int4"
    needs: ClassVar[Needs] = Needs.CUDA
    info: ClassVar[MethodInfo] = MethodInfo(extra="torchao")
    group: Count | None = None

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if job.compute.device.type != "cuda":
            raise Skipped("no CUDA device")
        torchao = import_library("torchao.quantization", "torchao")
        walk = Walk(model, job)
        weights = others = 0
        for visit in walk:
            out, width = visit.weight.shape
            group = group_size(width, self.group, 128, self.name)
            linear = nn.Linear(
                width, out, bias=False, device=visit.weight.device, dtype=torch.bfloat16
            )
            linear.weight.data.copy_(visit.weight)
            torchao.quantize_(linear, torchao.Int4WeightOnlyConfig(group_size=group))
            eye = torch.eye(width, device=visit.weight.device, dtype=torch.bfloat16)
            # Its kernel computes with these weights.
            visit.weight.copy_(linear(eye).T)
            # a scale and a zero point in bfloat16
            weights, others = weights + out * width, others + 4 * out * (width // group)
        # Its kernel alone reads its packed weights, so nothing is counted.
        library = f"torchao {version('torchao')}"
        storage = Storage(weights=weights, values=weights // 2, others=others, claimed=library)
        return walk.outcome()._replace(storage=storage)


class Scheme(NamedTuple):
    """Format of weights in llm-compressor. `args` are QuantizationArgs of compressed-tensors."""

    args: Mapping[str, Any]
    form: Format


INT4 = Scheme(
    {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group"}, weight_formats.INT4
)
NVFP4 = Scheme({"scheme": "NVFP4A16"}, weight_formats.NVFP4)
MXFP4 = Scheme({"scheme": "MXFP4A16"}, weight_formats.MXFP4)


class _LlmCompressor:
    """A modifier of llm-compressor, given the format of the weights."""

    name: ClassVar[str]
    modifier: ClassVar[str]
    scheme: ClassVar[Scheme]

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        require_oneshot(job)
        quantized = copy.deepcopy(model)
        group = self._groups(
            {t: tuple(dense_weight(quantized.get_submodule(t)).shape) for t in job.targets}
        )
        sizes = sorted(set(group.values()))
        oneshot(
            quantized,
            job,
            self._recipe({g: [t for t in job.targets if group[t] == g] for g in sizes}),
        )
        walk = Walk(model, job)
        for visit in walk:
            visit.store(*compress(quantized.get_submodule(visit.name)))
        return walk.outcome()

    def _groups(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
        """Return the number of weights that share a scale, by linear. Raise Skipped if the library
        cannot quantize one."""
        most = self.scheme.form.most
        if odd := next((t for t, (_, width) in shapes.items() if width % most), None):
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
        regexes = {g: [f"re:^{re.escape(t)}$" for t in names] for g, names in targets.items()}
        if preset := self.scheme.args.get("scheme"):
            return modifier(
                targets=[r for names in regexes.values() for r in names],
                scheme=preset,
                **self._settings(),
            )
        groups = {
            f"group_{g}": {"targets": names, "weights": dict(self.scheme.args) | {"group_size": g}}
            for g, names in regexes.items()
        }
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
    scheme: ClassVar[Scheme] = INT4
    group: Count | None = None

    def _groups(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
        return {
            t: self.scheme.form.codec(width, self.group, self.name).group
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
    scheme: ClassVar[Scheme] = NVFP4


class LlmCompressorMxFp4(LlmCompressorNvFp4):
    """MXFP4 of llm-compressor, rounded to nearest; shown for comparison. QuantizationModifier with
    MXFP4A16."""

    name = "llmcompressor-mxfp4"
    scheme = MXFP4


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
        if odd := next(
            (t for t, shape in shapes.items() if any(side % 32 for side in shape)), None
        ):
            out, width = shapes[odd]
            raise Skipped(
                f"auto-round leaves out linears whose sides are not multiples of 32: {odd} is "
                f"{out} x {width}"
            )
        # It reads the scales of all linears of a block with one size.
        return dict.fromkeys(shapes, min(super()._groups(shapes).values()))

    def _settings(self) -> dict[str, Any]:
        return {"iters": self.steps}
