"""What a method is given, and what it returns."""

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
    """What a method or a measure requires. The runner supplies it, or says why it cannot."""

    NOTHING = 0
    CALIBRATION = auto()
    TRAINING = auto()
    TEACHER = auto()
    CUDA = auto()
    ISOLATED = auto()


class Progress(Protocol):
    """Called while work goes on; the runner shows it. The caller chooses the unit of `done` and `total`."""

    def advance(self, done: int, total: int, **metrics: float) -> None: ...


class NoProgress:
    """A progress that shows nothing."""

    def advance(self, done: int, total: int, **metrics: float) -> None:
        pass


class Corpus(Protocol):
    """Training tokens with random access, so that a resumed run gets the batches that it would have had."""

    @property
    def step_tokens(self) -> int:
        """Tokens in one step, over all ranks."""
        ...

    @property
    def tokens(self) -> int:
        """Number of distinct tokens."""
        ...

    @property
    def digest(self) -> str:
        """sha256 of the tokens and their order."""
        ...

    def batch(self, step: int, rank: int = 0, world: int = 1) -> Tensor:
        """This rank's part of a step: int64 [sequences / world, seqlen]."""
        ...


def _torch() -> Any:
    """Imported when a job is made, since a plan reads `needs` from this module without torch."""
    import torch

    return torch


LIBRARY_BYTES = 10**9
"""About what a process takes that has imported its libraries, before it has a model: part of `Compute.max_bytes`."""


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Where and how to compute. stream: the model is larger than the device, so it is moved there block by block; is_shared:
    several processes share a training, and each takes its part of the model."""

    device: torch.device = field(default_factory=lambda: _torch().device("cpu"))
    dtype: torch.dtype = field(default_factory=lambda: _torch().float32)
    threads: int = 1
    stream: bool = False
    is_shared: bool = False
    max_bytes: int | None = None
    """Of this machine's memory that this process may take, about; None: as much as there is."""
    scratch: Path | None = None
    """A folder for what `max_bytes` leaves no place for."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much training a method may use, and how often its state is logged and saved."""

    tokens: int = 0
    """0: no training."""
    micro: int | None = None
    """Sequences per forward pass; None: all of a step."""
    log_every: int = 10
    """Steps between two reads of the losses. Each read waits for the device."""
    checkpoint_s: float = 300
    """Seconds between two checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Prior:
    """The stage named by `from=`: its folder, and the weights it kept (bool [out, in] per target)."""

    folder: Path
    masks: dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The environment of a library that cannot be installed next to this project."""

    name: str
    python: Path
    """Its Python interpreter."""
    log: Path
    """The output of a process there is kept in this file, beside the artifact."""


def _no_teacher() -> nn.Module:
    raise RuntimeError("this job has no teacher: the method's `needs` must name TEACHER")


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a method may use."""

    source: Path
    """The model that this stage starts from, a safetensors folder."""
    pattern: Pattern
    """Must hold on every target when the method is done."""
    targets: tuple[str, ...]
    """Module names of the linears to prune. Nothing else is pruned."""
    prior: Prior | None = None
    calibration: Tensor | None = None
    """int64 [sequences, seqlen]"""
    all_experts: bool = False
    """In a mixture, every expert sees all calibration tokens, not only its own."""
    training: Corpus | None = None
    validation: Tensor | None = None
    """int64 [windows, seqlen]"""
    teacher: Callable[[], nn.Module] = _no_teacher
    """Loads the frozen dense model when it is called."""
    environment: Environment | None = None
    """For a method that needs ISOLATED: the one that its catalog entry names."""
    compute: Compute = field(default_factory=Compute)
    budget: Budget = field(default_factory=Budget)
    seed: int = 0
    workdir: Path = Path()
    """For a trainer's checkpoints or a streamed model's shards."""
    progress: Progress = field(default_factory=NoProgress)


class Outcome(NamedTuple):
    """What a method returns."""

    model: nn.Module | Path
    """A folder if the model was streamed or the method ran in another environment."""
    changed: frozenset[str] = frozenset()
    """Names of tensors outside the targets that the method changed. Others must stay as they were."""
    notes: Mapping[str, Any] = MappingProxyType({})
    """JSON for the record: shown, never ranked."""


class Method(Protocol):
    """A frozen dataclass. Its fields are the hyperparameters that can be typed.

    The first paragraph of its docstring is shown in lists. `info: ClassVar[MethodInfo]` states its paper, its cost and its
    limits (`methods.info`).

    A method with `shares_calibration: ClassVar[bool] = True` can be given to several processes (`calibration.processes`): the
    statistic of its walk is a sum over tokens, it changes a target by the target's own statistic alone, and what it counts over
    targets it sums with `walk.total`. The walk does the rest.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs]

    def apply(self, model: nn.Module, job: Job) -> Outcome: ...
