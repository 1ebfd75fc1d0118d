"""Quantizers of other libraries, as their users get them. Each breaks 2:4, and its row shows by how much.

None is a dependency of ours: one that is missing is a skipped row that says what to install.
"""

from __future__ import annotations

import copy
import importlib
import re
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from methods.contract import Job, Needs, Outcome
from methods.errors import Skipped
from methods.pruning.walk import Walk
from methods.quantizing.grids import group_of
from methods.quantizing.stored import Stored
from methods.targets import holds_in_out


def _need(module: str, extra: str) -> Any:
    """
    Raises:
        Skipped: it is not installed, or it is and cannot be imported, which is said.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as fault:
        raise Skipped(f"pip install 'cast-bench[{extra}]' (no module {fault.name})") from None
    except ImportError as fault:
        raise Skipped(f"{module} cannot be imported: {str(fault).splitlines()[0]}") from None


@dataclass(frozen=True)
class Hqq:
    """Half-quadratic quantization to int4 with a float zero point. Badri & Shaji 2023; the library `hqq`."""

    name: ClassVar[str] = "hqq"
    needs: ClassVar[Needs] = Needs.NOTHING
    group: int | None = None

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        quantizer = _need("hqq.core.quantize", "hqq").Quantizer
        walk = Walk(model, job)
        scales = 0
        for visit in walk:
            group = group_of(visit.weight.shape[1], self.group, 64, self.name)
            packed, about = quantizer.quantize(
                visit.weight.float().contiguous(),
                nbits=4,
                group_size=group,
                axis=1,
                device=str(visit.weight.device),
                compute_dtype=torch.float32,
            )
            visit.weight.copy_(quantizer.dequantize(packed, about))
            scales += about["scale"].numel()
        # a scale and a zero point, float32 both as the library hands them over
        stored = Stored(bits=4, scale_bits=64, scales=scales, library=f"hqq {version('hqq')}")
        return walk.outcome(**stored.told())


@dataclass(frozen=True)
class TorchaoInt4:
    """torchao's Int4WeightOnlyConfig as it is by default: a float zero point, packed for a CUDA kernel."""

    name: ClassVar[str] = "torchao-int4"
    needs: ClassVar[Needs] = Needs.CUDA
    group: int | None = None

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if job.compute.device.type != "cuda":
            raise Skipped("no CUDA device")
        torchao = _need("torchao.quantization", "torchao")
        walk = Walk(model, job)
        scales = 0
        for visit in walk:
            out, width = visit.weight.shape
            group = group_of(width, self.group, 128, self.name)
            linear = nn.Linear(width, out, bias=False, device=visit.weight.device, dtype=torch.bfloat16)
            linear.weight.data.copy_(visit.weight)
            torchao.quantize_(linear, torchao.Int4WeightOnlyConfig(group_size=group))
            eye = torch.eye(width, device=visit.weight.device, dtype=torch.bfloat16)
            visit.weight.copy_(linear(eye).T)  # what its kernel computes with, whatever it packed
            scales += out * (width // group)
        stored = Stored(bits=4, scale_bits=32, scales=scales, library=f"torchao {version('torchao')}")
        return walk.outcome(**stored.told())


@dataclass(frozen=True)
class LlmCompressorGptq:
    """llm-compressor's GPTQModifier, W4 symmetric in groups, told nothing of the mask."""

    name: ClassVar[str] = "llmcompressor-gptq"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    group: int | None = None

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        _need("llmcompressor", "llmcompressor")
        if job.compute.stream:
            raise Skipped("llm-compressor here wants the whole model in memory")
        if any(holds_in_out(model.get_submodule(t)) for t in job.targets):
            raise Skipped("llm-compressor quantizes no Conv1D")
        assert job.calibration is not None
        done = copy.deepcopy(model)
        group = {t: group_of(_weight(done.get_submodule(t)).shape[1], self.group, 128, self.name) for t in job.targets}
        sizes = sorted(set(group.values()))
        _oneshot(done, {g: [t for t in job.targets if group[t] == g] for g in sizes}, job.calibration)
        walk = Walk(model, job)
        scales = 0
        for visit in walk:
            visit.weight.copy_(_weight(done.get_submodule(visit.name)))
            scales += visit.weight.numel() // group[visit.name]
        stored = Stored(bits=4, scale_bits=16, scales=scales, library=f"llmcompressor {version('llmcompressor')}")
        return walk.outcome(**stored.told())


def _oneshot(model: nn.Module, targets: dict[int, list[str]], tokens: Tensor) -> None:
    """targets: names of linears by group size."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier

    scheme = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group"}
    groups = {
        f"group_{g}": {"targets": [f"re:^{re.escape(t)}$" for t in names], "weights": scheme | {"group_size": g}}
        for g, names in targets.items()
    }
    oneshot(
        model=model,
        dataset=Dataset.from_dict({"input_ids": tokens.tolist()}),
        recipe=GPTQModifier(config_groups=groups),
        max_seq_length=tokens.shape[1],
        num_calibration_samples=len(tokens),
        shuffle_calibration_samples=False,
    )


def _weight(module: nn.Module) -> Tensor:
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight
