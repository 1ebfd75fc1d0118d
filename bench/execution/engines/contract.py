"""The contract of an engine: it loads the dense and the 2:4 version of a model and returns a step
of each to time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor

from bench.execution.versions import ModelVersions
from bench.kernels.timing import Work
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
    work: Work
    notes: dict[str, Any] = field(default_factory=dict)
    nbytes: int = 0
    """Bytes of weights that a decoding step reads, or 0 if unknown."""
    logits: Callable[[Tensor], Tensor] | None = None
    """Function from token ids [seqlen] to logits [seqlen, vocabulary], for the quality beside the
    speed."""


class Engine(Protocol):
    """A library that runs models on one device. kinds: kinds of weights, each with the quantizer
    that records name."""

    name: ClassVar[str]
    kinds: ClassVar[dict[str, str]]
    sparse: ClassVar[bool]
    """True if it also runs the 2:4 version."""

    def require(self, device: str) -> None:
        """Raise UserError if its package, its compiler or its device is missing."""

    def about(self) -> dict[str, Any]:
        """Return version and build for the key and the record."""

    def contestants(
        self, versions: ModelVersions, step: Step, device: str, threads: int
    ) -> list[Contestant]:
        """Load the sides and prepare a step of each, or raise UserError if the engine cannot run
        the model."""


def require_device(device: str, kind: str, what: str) -> None:
    """Raise UserError if the device is of another kind."""
    if device.split(":")[0] != kind:
        place = (
            "a CUDA device: use --device cuda on a machine that has one"
            if kind == "cuda"
            else "a CPU: use --device cpu"
        )
        raise UserError(f"--engine {what} measures on {place}")
