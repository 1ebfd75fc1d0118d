"""What a method is, what it is given and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Flag, auto
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from methods.pattern import Pattern

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Needs(Flag):
    """What a method or a measure cannot do without; the runner supplies it, or says why it cannot."""

    NOTHING = 0
    CALIBRATION = auto()
    TRAINING = auto()
    TEACHER = auto()
    CUDA = auto()
    ISOLATED = auto()


class Progress(Protocol):
    """Called as work goes on; the runner draws it. Units of done and total are the caller's."""

    def advance(self, done: int, total: int, **figures: float) -> None: ...


class NoProgress:
    """A Progress nobody watches."""

    def advance(self, done: int, total: int, **figures: float) -> None:
        pass


class Corpus(Protocol):
    """Training tokens with random access: a resumed run asks for step k and gets what it would have got."""

    @property
    def step_tokens(self) -> int:
        """Tokens of one step, all ranks together."""
        ...

    @property
    def tokens(self) -> int:
        """Distinct tokens there are."""
        ...

    @property
    def digest(self) -> str:
        """sha256 of the tokens and their order."""
        ...

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """This rank's share of a step: int64 [sequences / world, seqlen]."""
        ...


def _torch() -> Any:
    """Imported when a job is made: a plan reads `needs` off this module and wants no torch."""
    import torch

    return torch


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Where and how to compute. `stream`: the model is larger than the device, so blocks come one at a time."""

    device: torch.device = field(default_factory=lambda: _torch().device("cpu"))
    dtype: torch.dtype = field(default_factory=lambda: _torch().float32)
    threads: int = 1
    stream: bool = False


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much training a method may use; 0 tokens is none. micro: sequences per forward pass, None for all at once."""

    tokens: int = 0
    micro: int | None = None


@dataclass(frozen=True, kw_only=True)
class Prior:
    """The stage named by `from=`: its folder, and which weights it kept (bool [out, in] per target)."""

    folder: Path
    masks: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where another library lives whose own dependencies will not go with ours."""

    name: str
    python: Path
    """Its interpreter."""
    log: Path
    """What a process there says is kept in this file, beside the artifact."""


def _no_teacher() -> nn.Module:
    raise RuntimeError("this job has no teacher: the method's `needs` must name TEACHER")


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything a method may use, and nothing it may not."""

    source: Path
    """This stage's input, a safetensors folder."""
    pattern: Pattern
    """Must hold on every target afterwards."""
    targets: tuple[str, ...]
    """Module names of the linears to prune: these and nothing else."""
    prior: Prior | None = None
    calibration: Tensor | None = None
    """int64 [sequences, seqlen]"""
    training: Corpus | None = None
    validation: Tensor | None = None
    """int64 [windows, seqlen]"""
    teacher: Callable[[], nn.Module] = _no_teacher
    """Loads the frozen dense model, only when asked."""
    environment: Environment | None = None
    """For a method that needs ISOLATED: the one its catalog entry names."""
    compute: Compute = field(default_factory=Compute)
    budget: Budget = field(default_factory=Budget)
    seed: int = 0
    workdir: Path = Path()
    """A trainer's checkpoints, a streamed model's shards."""
    progress: Progress = field(default_factory=NoProgress)


class Outcome(NamedTuple):
    """What a method hands back."""

    model: nn.Module | Path
    """A folder when the method streamed or ran elsewhere."""
    changed: frozenset[str] = frozenset()
    """Tensors outside the targets that it trained, declared."""
    notes: Mapping[str, Any] = MappingProxyType({})
    """The method's diary, JSON: shown, never ranked."""


class Method(Protocol):
    """A frozen dataclass whose fields are its hyperparameters."""

    name: ClassVar[str]
    needs: ClassVar[Needs]

    def apply(self, model: nn.Module, job: Job) -> Outcome: ...
