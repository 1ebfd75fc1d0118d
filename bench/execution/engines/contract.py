"""What an engine is: it takes a model's two versions, dense and 2:4, and gives a step of each to time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

from bench.kernels.timing import Work
from bench.results import identity
from methods.errors import UserError

DENSE, SPARSE = "dense", "2:4"
"""The two sides of a comparison."""


class Step(NamedTuple):
    """A step of one sequence: it takes `prompt` tokens after `kv` tokens that are in the cache."""

    name: str
    """decode or prefill."""
    prompt: int
    kv: int

    def protocol(self, engine: str) -> identity.Protocol:
        if self.name == "decode":
            return identity.Protocol(name=self.name, version=f"b1,kv{self.kv}", engine=engine)
        return identity.Protocol(name=self.name, seqlen=self.prompt, engine=engine)


class Versions(Protocol):
    """A model's versions on disk, each made when it is first asked for."""

    targets: tuple[str, ...]
    workdir: Path
    """A folder for what an engine writes; it goes when the measurement ends."""

    def folder(self, side: str) -> Path:
        """The safetensors folder of a side."""
        ...

    def onnx(self, side: str, dtype: str) -> Path:
        """The ONNX file of a side; both sides are the same graph."""
        ...


@dataclass(frozen=True)
class Contestant:
    """One side of one kind of weight in one engine."""

    kind: str
    side: str
    work: Work
    notes: dict[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """Steps of models on one device. kinds: of weights, each with the quantizer that a record names."""

    name: ClassVar[str]
    kinds: ClassVar[dict[str, str]]
    sparse: ClassVar[bool]
    """Does it take the 2:4 version, too?"""

    def require(self, device: str) -> None:
        """
        Raises:
            UserError: its package, its compiler or its device is not here.
        """
        ...

    def about(self) -> dict[str, Any]:
        """Version and build of what runs, for the key and the record."""
        ...

    def contestants(self, versions: Versions, step: Step, device: str, threads: int) -> list[Contestant]:
        """Load the sides and prepare a step of each.

        Raises:
            UserError: a model that the engine cannot run.
        """
        ...


def require_device(device: str, kind: str, what: str) -> None:
    """
    Raises:
        UserError: the device is of another kind.
    """
    if device.split(":")[0] != kind:
        place = (
            "a CUDA device: use --device cuda on a machine that has one"
            if kind == "cuda"
            else "a CPU: use --device cpu"
        )
        raise UserError(f"--engine {what} measures on {place}")
