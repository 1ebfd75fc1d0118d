"""The interface of an engine, built in or an entry point of the group cast_bench.engines."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from bench.parts.packed24.timing import Work
from bench.parts.speed.versions import ModelVersions
from bench.results import identity
from methods.contract.errors import UserError


class Step(NamedTuple):
    """A step of one sequence: `prompt` new tokens after `kv` tokens in the KV cache."""

    name: str
    """decode or prefill."""
    prompt: int
    kv: int

    def protocol(self, engine: str) -> identity.Protocol:
        if self.name == "decode":
            return identity.Protocol(name=self.name, version=f"b1,kv{self.kv}", engine=engine)
        return identity.Protocol(name=self.name, seqlen=self.prompt, engine=engine)


@dataclass(frozen=True)
class Contestant:
    """One side of one kind of weight in one engine."""

    kind: str
    side: str
    """dense or 2:4."""
    work: Work
    notes: dict[str, Any] = field(default_factory=dict)
    nbytes: int = 0
    """Bytes of weights that a decoding step reads, or 0 if unknown."""
    logits: Callable[[Tensor], Tensor] | None = None
    """Function from token ids [seqlen] to logits [seqlen, vocabulary], for the quality beside the
    speed."""


class Engine:
    """Base of an engine, a library that runs whole models on one device.

    The name of its entry point is the one that `--engine` takes. The first paragraph of its
    docstring is its line in the help.
    """

    kinds: ClassVar[dict[str, str]]
    """Quantizer that records name, by kind of weight."""
    sparse: ClassVar[bool] = False
    """True if it also runs the 2:4 version."""

    def require(self, device: str) -> None:
        """Raise UserError if its package, its compiler or its device is missing."""

    def about(self) -> dict[str, Any]:
        """Return version and build for the key and the record."""
        raise NotImplementedError

    def contestants(
        self, versions: ModelVersions, step: Step, device: str, threads: int
    ) -> Iterable[Contestant]:
        """Load the sides and prepare a step of each, or raise UserError if the engine cannot run
        the model, or torch.OutOfMemoryError. A kind that was yielded before that is timed."""
        raise NotImplementedError


def require_device(device: str, kind: str, engine: str) -> None:
    """Raise UserError if the device is of another kind."""
    if device.split(":")[0] == kind:
        return
    place = "a CPU: use --device cpu"
    if kind == "cuda":
        place = "a CUDA device: use --device cuda on a machine that has one"
    raise UserError(f"--engine {engine} measures on {place}")
