"""Quantizers of other libraries, called as their users call them. Each breaks 2:4, and its row shows by how much.

None of the libraries is a dependency. If one is missing, the row is skipped and says what to install.
"""

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from methods.contract import Job, Needs, Outcome
from methods.errors import Skipped
from methods.info import MethodInfo
from methods.pruning.walk import Walk
from methods.quantizing.grids import group_size
from methods.quantizing.stored import Stored
from methods.ranges import Count
from methods.targets import dense_weight, stores_in_out


def import_library(module: str, extra: str) -> Any:
    """Import a library. Raise Skipped if it is not installed, or cannot be imported."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as fault:
        raise Skipped(f"pip install 'cast-bench[{extra}]' (no module {fault.name})") from None
    except ImportError as fault:
        raise Skipped(f"{module} cannot be imported: {str(fault).splitlines()[0]}") from None


@dataclass(frozen=True)
class Hqq:
    """int4 of hqq; breaks the pattern, shown for comparison.

    Half-quadratic quantization to int4 with a float zero point. Badri & Shaji 2023; the library `hqq`.
    """

    name: ClassVar[str] = "hqq"
    needs: ClassVar[Needs] = Needs.NOTHING
    group: Count | None = None

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        quantizer = import_library("hqq.core.quantize", "hqq").Quantizer
        walk = Walk(model, job)
        scales = 0
        for visit in walk:
            group = group_size(visit.weight.shape[1], self.group, 64, self.name)
            packed, info = quantizer.quantize(
                visit.weight.float().contiguous(),
                nbits=4,
                group_size=group,
                axis=1,
                device=str(visit.weight.device),
                compute_dtype=torch.float32,
            )
            visit.weight.copy_(quantizer.dequantize(packed, info))
            scales += info["scale"].numel()
        # A scale and a zero point. Models of this library store both in float16.
        stored = Stored(bits=4, scale_bits=32, scales=scales, library=f"hqq {version('hqq')}")
        return walk.outcome(**stored.notes())


@dataclass(frozen=True)
class TorchaoInt4:
    """int4 of torchao; breaks the pattern, shown for comparison.

    This is Int4WeightOnlyConfig with its defaults: a float zero point, packed for a CUDA kernel.
    """

    name: ClassVar[str] = "torchao-int4"
    needs: ClassVar[Needs] = Needs.CUDA
    group: Count | None = None

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if job.compute.device.type != "cuda":
            raise Skipped("no CUDA device")
        torchao = import_library("torchao.quantization", "torchao")
        walk = Walk(model, job)
        scales = 0
        for visit in walk:
            out, width = visit.weight.shape
            group = group_size(width, self.group, 128, self.name)
            linear = nn.Linear(width, out, bias=False, device=visit.weight.device, dtype=torch.bfloat16)
            linear.weight.data.copy_(visit.weight)
            torchao.quantize_(linear, torchao.Int4WeightOnlyConfig(group_size=group))
            eye = torch.eye(width, device=visit.weight.device, dtype=torch.bfloat16)
            # Its kernel computes with these weights.
            visit.weight.copy_(linear(eye).T)
            scales += out * (width // group)
        stored = Stored(bits=4, scale_bits=32, scales=scales, library=f"torchao {version('torchao')}")
        return walk.outcome(**stored.notes())


class Scheme(NamedTuple):
    """Format of weights in llm-compressor. `args` are QuantizationArgs of compressed-tensors."""

    args: Mapping[str, Any]
    most: int
    """Default of the number of weights that share a scale."""
    scale_bits: int


INT4 = Scheme({"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group"}, 128, 16)
NVFP4 = Scheme({"scheme": "NVFP4A16"}, 16, 8)
MXFP4 = Scheme({"scheme": "MXFP4A16"}, 32, 8)


@dataclass(frozen=True)
class LlmCompressorGptq:
    """int4 of llm-compressor; breaks the pattern, shown for comparison.

    This is GPTQModifier, W4 symmetric in groups. It does not know the mask.
    """

    name: ClassVar[str] = "llmcompressor-gptq"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(paper="2210.17323")
    modifier: ClassVar[str] = "gptq.GPTQModifier"
    scheme: ClassVar[Scheme] = INT4
    group: Count | None = None

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        import_library("llmcompressor", "llmcompressor")
        if job.compute.stream:
            raise Skipped("llm-compressor needs the whole model in memory, and this one is streamed")
        if any(stores_in_out(model.get_submodule(t)) for t in job.targets):
            raise Skipped("llm-compressor cannot quantize Conv1D")
        assert job.calibration is not None
        quantized = copy.deepcopy(model)
        group = self._groups({t: dense_weight(quantized.get_submodule(t)).shape[1] for t in job.targets})
        sizes = sorted(set(group.values()))
        recipe = self._recipe({g: [t for t in job.targets if group[t] == g] for g in sizes})
        _oneshot(quantized, recipe, job.calibration)
        rounded: Any = importlib.import_module("compressed_tensors.quantization").forward_quantize
        walk = Walk(model, job)
        scales = 0
        for visit in walk:
            module: Any = quantized.get_submodule(visit.name)
            args = module.quantization_scheme.weights
            visit.weight.copy_(rounded(module, dense_weight(module), "weight", args))
            scales += visit.weight.numel() // group[visit.name]
        stored = Stored(
            bits=4,
            scale_bits=self.scheme.scale_bits,
            scales=scales,
            library=f"llmcompressor {version('llmcompressor')}",
        )
        return walk.outcome(**stored.notes())

    def _groups(self, widths: Mapping[str, int]) -> dict[str, int]:
        """Return the number of weights that share a scale, by linear."""
        return {t: group_size(width, self.group, self.scheme.most, self.name) for t, width in widths.items()}

    def _settings(self) -> dict[str, Any]:
        """Return settings of the modifier besides the format."""
        return {}

    def _recipe(self, targets: Mapping[int, Sequence[str]]) -> Any:
        """Return the modifier. targets: names of linears by group size."""
        module, _, kind = self.modifier.rpartition(".")
        modifier = getattr(importlib.import_module(f"llmcompressor.modifiers.{module}"), kind)
        regexes = {g: [f"re:^{re.escape(t)}$" for t in names] for g, names in targets.items()}
        if preset := self.scheme.args.get("scheme"):
            return modifier(targets=[r for names in regexes.values() for r in names], scheme=preset, **self._settings())
        groups = {
            f"group_{g}": {"targets": names, "weights": dict(self.scheme.args) | {"group_size": g}}
            for g, names in regexes.items()
        }
        return modifier(config_groups=groups, **self._settings())


class LlmCompressorNvFp4(LlmCompressorGptq):
    """NVFP4 of llm-compressor, rounded to nearest; shown for comparison. QuantizationModifier with NVFP4A16."""

    name = "llmcompressor-nvfp4"
    info: ClassVar[MethodInfo] = MethodInfo()
    modifier = "quantization.QuantizationModifier"
    scheme = NVFP4


class LlmCompressorMxFp4(LlmCompressorNvFp4):
    """MXFP4 of llm-compressor, rounded to nearest; shown for comparison. QuantizationModifier with MXFP4A16."""

    name = "llmcompressor-mxfp4"
    scheme = MXFP4


@dataclass(frozen=True)
class AutoRound(LlmCompressorGptq):
    """int4 of auto-round, by llm-compressor; breaks the pattern, shown for comparison.

    This is AutoRoundModifier, W4 symmetric in groups of one size: learned rounding, block by block. steps: of each block.
    """

    name: ClassVar[str] = "auto-round"
    info: ClassVar[MethodInfo] = MethodInfo(paper="2309.05516")
    modifier: ClassVar[str] = "autoround.AutoRoundModifier"
    steps: Count = 200

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        import_library("auto_round", "llmcompressor")
        return super().apply(model, job)

    def _groups(self, widths: Mapping[str, int]) -> dict[str, int]:
        # It reads the scales of all linears of a block with one size.
        return dict.fromkeys(widths, min(super()._groups(widths).values()))

    def _settings(self) -> dict[str, Any]:
        return {"iters": self.steps}


def _oneshot(model: nn.Module, recipe: Any, tokens: Tensor) -> None:
    """Quantize the model in place, as users of llm-compressor do."""
    from datasets import Dataset
    from llmcompressor import oneshot

    oneshot(
        model=model,
        dataset=Dataset.from_dict({"input_ids": tokens.tolist()}),
        recipe=recipe,
        max_seq_length=tokens.shape[1],
        num_calibration_samples=len(tokens),
        shuffle_calibration_samples=False,
    )
