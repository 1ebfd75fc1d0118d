"""A quantizer and a pattern for each linear, as `bench allocate` shares a budget among them."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import Field
from torch import Tensor, nn

from bench.catalog.choice import build, parse_method
from bench.catalog.registry import lookup
from bench.quantizers.gptq import Int3Gptq, Int4Gptq, MxFp4Gptq, NvFp4Gptq
from bench.quantizers.rounding import Fp8, Int3, Int4, Int8, MxFp4, MxFp8, Nf4, NvFp4
from bench.system.source_digest import digest_source
from bench.system.suggest import describe_unknown
from methods.contract.codec import FloatCodec, StoredWeight
from methods.contract.errors import Skipped, UserError
from methods.contract.info import Does, InputFile, MethodInfo
from methods.contract.method import Job, Method, Needs, Outcome
from methods.contract.pattern import Pattern
from methods.model.safe_files import parse_object
from methods.model.targets import dense_weight
from methods.workshop.pruning.walk import Walk
from methods.workshop.quantizing.weight_formats import RoundToNearest

QUANTIZER_CLASSES = (
    Int8,
    Fp8,
    Int4,
    Int3,
    Nf4,
    MxFp8,
    MxFp4,
    NvFp4,
    Int4Gptq,
    Int3Gptq,
    MxFp4Gptq,
    NvFp4Gptq,
)
QUANTIZERS: Mapping[str, type[RoundToNearest] | type[Int4Gptq]] = {
    kind.name: kind for kind in QUANTIZER_CLASSES
}
"""Quantizers that a linear can have, with their defaults."""
UNCHANGED = "dense"
"""Choice of a linear that is neither pruned nor quantized."""
LINEARS, PRUNER = "linears", "pruner"
"""Keys of the file: the choice of each linear by its name, and the method that prunes."""


class LinearChoice(NamedTuple):
    """Pattern and quantizer of a linear."""

    pattern: Pattern
    quantizer: str
    """Key of QUANTIZERS, or "none"."""

    @classmethod
    def parse(cls, text: str) -> LinearChoice:
        """Read QUANTIZER, N:M, N:M+QUANTIZER or "dense". Raise UserError for anything else."""
        match = re.fullmatch(r"(?:([0-9]+:[0-9]+)(?:\+|$))?(.*)", text)
        pattern, quantizer = (match[1] or UNCHANGED, match[2]) if match else (UNCHANGED, text)
        if text == UNCHANGED or pattern == text:
            quantizer = "none"
        elif quantizer not in QUANTIZERS:
            raise UserError(
                describe_unknown("choice", text, [*QUANTIZERS, "2:4", "2:4+int4-gptq", UNCHANGED])
            )
        return cls(Pattern.parse(pattern), quantizer)

    @property
    def kept(self) -> float:
        """Fraction of the weights that are kept."""
        return 1 - self.pattern.share

    def bits(self, out: int, width: int, plain: float) -> tuple[float, int]:
        """Return the bits of a value, with its part of the mask, and those of all scales of a
        weight [out, width].

        plain: bits of a value that is not quantized.
        """
        bits, scales = plain, 0
        if self.quantizer != "none":
            form = QUANTIZERS[self.quantizer].format
            bits = form.grid.bits
            scales = form.scale_bits(out, width, form.codec(width, None, self.quantizer).group)
        if not self.pattern.dense:
            bits = bits * self.kept + 1
        return bits, scales


class Allocation(NamedTuple):
    """Content of a file of `bench allocate`."""

    linears: dict[str, str]
    """Choice of each linear."""
    pruner: str = ""
    """Method that prunes the linears whose choice has a pattern; "" without one."""


@dataclass(frozen=True)
class Allocated:
    """A quantizer for each linear, and a pattern if it has one, named in a file of `bench
    allocate`.

    Each choice is applied to the whole model, and each linear takes the weights of the choice that
    the file names. So a linear has the weights whose damage was measured. After EvoPress, without
    its evolutionary search.

    file: JSON file. sha256: digest of its content, which a plan fills in.
    """

    name: ClassVar[str] = "allocated"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2410.14649", file=InputFile("file", required=True)
    )
    file: str = ""
    sha256: Annotated[
        str, Field(pattern="^([0-9a-f]{64})?$", description="64 hexadecimal digits")
    ] = ""

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if job.compute.stream:
            raise Skipped("allocated needs the whole model in memory, and this one is streamed")
        chosen, pruner = self.read(job.pattern, job.targets)
        parsed = {name: LinearChoice.parse(name) for name in sorted(set(chosen.values()))}
        weights: dict[str, Tensor] = {}
        stored: dict[str, StoredWeight] = {}
        for name, choice in parsed.items():
            changed = copy.deepcopy(model)
            own = job if choice.pattern.dense else replace(job, pattern=choice.pattern)
            if not choice.pattern.dense:
                parse_pruner(pruner).apply(changed, own)
                # A stage ends in a file, so the next one begins with rounded weights.
                for target in job.targets:
                    weight = dense_weight(changed.get_submodule(target))
                    weight.copy_(weight.to(job.compute.stored))
            known: Mapping[str, StoredWeight] = {}
            if choice.quantizer != "none":
                known = QUANTIZERS[choice.quantizer]().apply(changed, own).stored
            for target in job.targets:
                if chosen[target] == name:
                    weights[target] = dense_weight(changed.get_submodule(target)).clone()
                    floats = {"values": weights[target].to(job.compute.stored).cpu()}
                    one = known.get(target) or StoredWeight(FloatCodec(), floats)
                    stored[target] = one._replace(pattern=choice.pattern)
        walk = Walk(model, job)
        for visit in walk:
            visit.weight.copy_(weights.pop(visit.name))
        counts = {name: list(chosen.values()).count(name) for name in parsed}
        return walk.outcome(allocation=counts)._replace(stored=stored)

    def read(self, pattern: Pattern, targets: Collection[str] | None) -> Allocation:
        """Return the content of the file. A plan calls this, too.

        Args:
            pattern: pattern of the model.
            targets: names of its linears. None: not known yet.

        Raises:
            UserError: as for `read_allocation`, or the file prunes a model that is pruned already.
        """
        allocation = read_allocation(Path(self.file), self.sha256, targets)
        if allocation.pruner and not pattern.dense:
            raise UserError(
                f"{self.file} prunes linears, and this model is pruned to {pattern}: use "
                "--methods dense"
            )
        return allocation


def parse_pruner(text: str) -> Method:
    """Return the method that prunes the linears of an allocation. Refuse one with other stages,
    training or environments."""
    choice, entry = parse_method(text), lookup("methods", text.split(":")[0])
    if (
        choice.prior
        or entry.does != Does.PRUNES
        or entry.file
        or set(entry.needs) - {"calibration"}
    ):
        raise UserError(
            f"{text} cannot prune for an allocation: use a one-shot method, for example sparsegpt"
        )
    return build(entry, choice.name, choice.config)


def pruner_code(text: str) -> str:
    """Return the digest of a pruner's code. It is part of the file, and so of the keys of rows."""
    return digest_source(lookup("methods", text.split(":")[0]).module)


def read_allocation(file: Path, sha256: str, targets: Collection[str] | None) -> Allocation:
    """Return the choice of each target from a file, and the method that prunes. targets: None
    accepts any names.

    Raises:
        UserError: the file cannot be read, has changed since the plan, names other linears, unknown
            choices, or a method whose code has changed since.
    """
    try:
        content = file.read_bytes()
        parsed = parse_object(content)
    except (OSError, ValueError) as fault:
        raise UserError(
            f"{file} cannot be read as an allocation ({fault}): write it with bench allocate"
        ) from None
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{file} has changed since the run was planned: start the run again")
    linears: Any = parsed.get(LINEARS)
    if not isinstance(linears, dict):
        raise UserError(f"{file} has no object {LINEARS!r}: write it with bench allocate")
    if targets is not None and set(linears) != set(targets):
        raise UserError(
            f"{file} names other linears than the {len(targets)} of this run: write it with bench "
            "allocate"
        )
    try:
        names = sorted({str(name) for name in linears.values()})
        sparse = [name for name in names if not LinearChoice.parse(name).pattern.dense]
    except UserError as fault:
        raise UserError(f"{file}: {fault}") from None
    if not sparse:
        return Allocation(linears)
    stated = parsed.get(PRUNER)
    if not isinstance(stated, dict) or not isinstance(pruner := stated.get("method"), str):
        raise UserError(
            f"{file} has the choice {sparse[0]} and names no pruner: write it with bench allocate"
        )
    parse_pruner(pruner)
    if stated.get("code") != pruner_code(pruner):
        raise UserError(
            f"{file} is of another version of {pruner}: write it again with bench allocate"
        )
    return Allocation(linears, pruner)
