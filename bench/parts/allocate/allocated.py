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
from bench.system.source_digest import digest_source
from methods.contract.codec import FloatCodec, StoredWeight
from methods.contract.errors import Skipped, UserError
from methods.contract.info import Does, InputFile, MethodInfo
from methods.contract.method import Job, Method, Needs, Outcome
from methods.contract.pattern import Pattern
from methods.model.safe_files import parse_object
from methods.model.targets import dense_weight
from methods.workshop.pruning.walk import Walk

UNCHANGED = "dense"
"""Choice of a linear that is neither pruned nor quantized."""
LINEARS, PRUNER, CODE = "linears", "pruner", "code"
"""Keys of the file: the choice of each linear by its name, the method that prunes, and the digest
of each quantizer's code."""


class LinearChoice(NamedTuple):
    """Pattern and quantizer of a linear."""

    pattern: Pattern
    quantizer: str
    """Quantizer with its settings, as typed, or "none"."""

    @classmethod
    def parse(cls, text: str) -> LinearChoice:
        """Read QUANTIZER, N:M, N:M+QUANTIZER or "dense". Raise UserError for anything else."""
        match = re.fullmatch(r"(?:((?:pairs:)?[0-9]+:[0-9]+)(?:\+|$))?(.*)", text)
        pattern, quantizer = (match[1] or UNCHANGED, match[2]) if match else (UNCHANGED, text)
        if text == UNCHANGED or pattern == text:
            quantizer = "none"
        else:
            parse_linear_quantizer(quantizer)
        return cls(Pattern.parse(pattern), quantizer)

    @property
    def kept(self) -> float:
        """Fraction of the weights that are kept."""
        return 1 - self.pattern.share


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
                known = parse_linear_quantizer(choice.quantizer).apply(changed, own).stored
                require_stored(choice.quantizer, known)
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


def parse_linear_quantizer(text: str) -> Method:
    """Return the quantizer of some linears. Refuse one that changes more than the weights of a
    linear, or none."""
    choice, entry = parse_method(text, "quantizers"), lookup("quantizers", text.split(":")[0])
    method = build(entry, choice.name, choice.config)
    rounds_inputs = bool(getattr(getattr(method, "format", None), "inputs", ""))
    is_whole = entry.file or entry.after or rounds_inputs or Does.KEEPS_WEIGHTS in entry.does
    if choice.name == "none" or choice.prior or choice.outer or is_whole:
        raise UserError(
            f"{text} cannot be the choice of a linear: use a quantizer of weights alone, for "
            "example int4-gptq, without embed= and head="
        )
    return method


def require_stored(text: str, stored: Collection[str]) -> None:
    """Raise UserError if a quantizer stored no weights, so that their bytes cannot be counted."""
    if not stored:
        raise UserError(
            f"{text} cannot be the choice of a linear: its library alone knows the bytes of its "
            "weights; use a quantizer with a codec, for example int4-gptq"
        )


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


def code_of(text: str, kind: str) -> str:
    """Return the digest of the code of a pruner or quantizer. It is part of the file, and so of the
    keys of rows. kind: section of the catalog."""
    return digest_source(lookup(kind, text.split(":")[0]).module)


def read_allocation(file: Path, sha256: str, targets: Collection[str] | None) -> Allocation:
    """Return the choice of each target from a file, and the method that prunes. targets: None
    accepts any names.

    Raises:
        UserError: the file cannot be read, has changed since the plan, names other linears, unknown
            choices, or a method or quantizer whose code has changed since.
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
        parsed_names = {str(name): LinearChoice.parse(str(name)) for name in linears.values()}
    except UserError as fault:
        raise UserError(f"{file}: {fault}") from None
    # Files that are older than these digests have none.
    codes = parsed.get(CODE, {})
    if not isinstance(codes, dict):
        raise UserError(f"{file}: {CODE!r} is no object: write it with bench allocate")
    for quantizer, code in codes.items():
        _require_code(file, quantizer, "quantizers", code)
    sparse = sorted(name for name, choice in parsed_names.items() if not choice.pattern.dense)
    if not sparse:
        return Allocation(linears)
    stated = parsed.get(PRUNER)
    if not isinstance(stated, dict) or not isinstance(pruner := stated.get("method"), str):
        raise UserError(
            f"{file} has the choice {sparse[0]} and names no pruner: write it with bench allocate"
        )
    parse_pruner(pruner)
    _require_code(file, pruner, "methods", stated.get("code"))
    return Allocation(linears, pruner)


def _require_code(file: Path, text: str, kind: str, code: Any) -> None:
    """Raise UserError if the code of a pruner or quantizer is not that of the file."""
    if code != code_of(text, kind):
        raise UserError(
            f"{file} is of another version of {text}: write it again with bench allocate"
        )
