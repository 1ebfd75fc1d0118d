"""A quantizer for each linear, as `bench allocate` shares bits among them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from bench.quantizers.formats import format_of
from bench.quantizers.gptq import Int3Gptq, Int4Gptq, MxFp4Gptq, NvFp4Gptq
from bench.quantizers.rounding import Fp8, Int3, Int4, Int8, MxFp4, MxFp8, Nf4, NvFp4
from methods.contract import Job, Needs, Outcome
from methods.errors import Skipped, UserError
from methods.files import parse_object
from methods.info import MethodInfo
from methods.pruning.walk import Walk
from methods.quantizing.stored import Stored
from methods.targets import dense_weight

KINDS = (Int8, Fp8, Int4, Int3, Nf4, MxFp8, MxFp4, NvFp4, Int4Gptq, Int3Gptq, MxFp4Gptq, NvFp4Gptq)
CHOICES: Mapping[str, type[Int8] | type[Int4Gptq]] = {kind.name: kind for kind in KINDS}
"""Quantizers that a linear can have, with their defaults."""
LINEARS = "linears"
"""Key of the file: the quantizer of each linear by its name."""


@dataclass(frozen=True)
class Allocated:
    """A quantizer for each linear, named in a file of `bench allocate`.

    Each quantizer is applied to the whole model, and each linear takes the weights of the quantizer that the file names. So
    a linear has the weights whose damage was measured. After EvoPress, without its evolutionary search.

    file: JSON file. sha256: digest of its content, which a plan fills in.
    """

    name: ClassVar[str] = "allocated"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(paper="2410.14649", settings_file="file")
    file: str = ""
    sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$", description="64 hexadecimal digits")] = ""

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if job.compute.stream:
            raise Skipped("allocated needs the whole model in memory, and this one is streamed")
        chosen = read_allocation(Path(self.file), self.sha256, job.targets)
        weights: dict[str, Tensor] = {}
        for name in sorted(set(chosen.values())):
            quantized = copy.deepcopy(model)
            CHOICES[name]().apply(quantized, job)
            own = [target for target in job.targets if chosen[target] == name]
            weights |= {target: dense_weight(quantized.get_submodule(target)).clone() for target in own}
        walk = Walk(model, job)
        values = scales = total = 0
        for visit in walk:
            visit.weight.copy_(weights.pop(visit.name))
            bits, scale_bits = bits_of(chosen[visit.name], visit.weight.shape[1])
            values, scales = values + bits * visit.weight.numel(), scales + scale_bits * len(visit.weight)
            total += visit.weight.numel()
        counts = {name: list(chosen.values()).count(name) for name in sorted(set(chosen.values()))}
        return walk.outcome(allocation=counts, **Stored(bits=values / total, scale_bits=8, scales=scales // 8).notes())


def bits_of(quantizer: str, width: int) -> tuple[int, int]:
    """Return the bits of a value, and those of the scales of a row of `width` weights."""
    form = format_of(quantizer)
    return form.grid.bits, form.grid.scale_bits * (width // form.group(width, None, quantizer))


def read_allocation(file: Path, sha256: str, targets: Collection[str]) -> dict[str, str]:
    """Return the quantizer of each target from a file.

    Raises:
        UserError: the file cannot be read, has changed since the plan, or names other linears or unknown quantizers.
    """
    try:
        content = file.read_bytes()
        linears = parse_object(content).get(LINEARS)
    except (OSError, ValueError) as fault:
        raise UserError(f"{file} cannot be read as an allocation ({fault}): write it with bench allocate") from None
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{file} has changed since the run was planned: start the run again")
    if not isinstance(linears, dict) or set(linears) != set(targets):
        raise UserError(f"{file} names other linears than the {len(targets)} of this run: write it with bench allocate")
    if unknown := sorted({str(name) for name in linears.values()} - set(CHOICES)):
        raise UserError(f"{file} names the quantizer {unknown[0]!r}: use {', '.join(CHOICES)}")
    return linears
