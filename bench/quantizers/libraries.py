"""Quantizers of other libraries, called as their users call them. Each breaks 2:4, and its row
shows by how much.

None of the libraries is a dependency. If one is missing, the row is skipped and says what to
install.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import ClassVar

import torch
from torch import Tensor, nn

from methods.contract.codec import Storage
from methods.contract.errors import Skipped
from methods.contract.info import MethodInfo
from methods.contract.method import Job, Needs, Outcome
from methods.contract.ranges import Count
from methods.workshop.library_calls import import_library
from methods.workshop.pruning.walk import Walk
from methods.workshop.quantizing.grids import group_size


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
