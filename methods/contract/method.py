"""The contract of a method: its inputs and its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Flag, auto
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from methods.contract.errors import UserError
from methods.contract.pattern import Pattern

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from methods.contract.axes import Kept
    from methods.contract.codec import Storage, StoredWeight


Constants = Mapping[int, Mapping[str, "Tensor"]]
"""Constants in place of experts, by block: "outputs" [removed, hidden], and by the name of each
parameter of the router its rows for the removed experts, such as "weight" [removed, hidden]."""


class Needs(Flag):
    """Requirements of a method or a measure, joined by |. The runner supplies them, or says why it
    cannot.

    CALIBRATION: `job.calibration` has tokens. TRAINING: `job.training` and `job.validation` have
    text. TEACHER: `job.teacher()` loads the dense model. CUDA: a CUDA device. ISOLATED:
    `job.environment` is that of another library.
    """

    NOTHING = 0
    CALIBRATION = auto()
    TRAINING = auto()
    TEACHER = auto()
    CUDA = auto()
    ISOLATED = auto()


class Progress(Protocol):
    """A callback that the runner shows. The caller chooses the unit of `done` and `total`."""

    def advance(self, done: int, total: int, **metrics: float) -> None: ...


class NoProgress:
    """A progress that shows nothing."""

    def advance(self, done: int, total: int, **metrics: float) -> None:
        pass


class Corpus(Protocol):
    """Training tokens with random access, so that a resumed run gets the same batches."""

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
        """Return this rank's part of a step: int64 [sequences / world, seqlen]."""
        ...


LIBRARY_BYTES = 10**9
"""Approximate memory of a process after its imports and before it has a model: part of
`Compute.max_bytes`."""


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Device, dtype and memory of a job. stream: the model is larger than the device, so blocks
    move there one by one;
    is_shared: several processes share a training, and each has a part of the model.
    """

    # torch is imported only when a job is made: a plan reads `needs` from this module without it
    device: torch.device = field(default_factory=lambda: import_module("torch").device("cpu"))
    dtype: torch.dtype = field(default_factory=lambda: import_module("torch").float32)
    """Number format of the loaded weights and of the arithmetic."""
    written_as: torch.dtype | None = None
    """Number format of the weights that are written to disk. None for `dtype`."""
    threads: int = 1
    stream: bool = False
    is_shared: bool = False
    max_bytes: int | None = None
    """Approximate limit of this process's memory; None for no limit."""
    scratch: Path | None = None
    """Folder for activations that do not fit in `max_bytes`."""

    @property
    def stored(self) -> torch.dtype:
        """Number format of the weights on disk."""
        return self.written_as or self.dtype


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits of a training, and how often its state is logged and saved."""

    tokens: int = 0
    """Number of training tokens; 0 for no training."""
    micro: int | None = None
    """Sequences per forward pass; None for all of a step."""
    log_every: int = 10
    """Steps between two reads of the losses. Each read waits for the device."""
    checkpoint_s: float = 300
    """Least seconds between two checkpoints, which take at most 5% of the time. 0: one whenever
    losses are read."""


@dataclass(frozen=True, kw_only=True)
class Prior:
    """The stage named by `from=`: its folder, and the weights it kept (bool [out, in] per
    target)."""

    folder: Path
    masks: Mapping[str, Tensor]

    def require(self, pattern: Pattern, name: str) -> None:
        """Raise UserError if a target is not pruned to the pattern. name: of the method that starts
        from this stage."""
        if pattern.dense:
            return
        for target, mask in self.masks.items():
            if pattern.violations(mask):
                raise UserError(
                    f"{name} needs a model that is pruned to {pattern}, and {target} is not: put "
                    f"a method that prunes before it, for example {name}:from=wanda"
                )


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The environment of a library that cannot be installed next to this project."""

    name: str
    python: Path
    """Its Python interpreter."""
    log: Path
    """File beside the artifact with the output of the process."""


def _no_teacher() -> nn.Module:
    raise RuntimeError("this job has no teacher: the method's `needs` must name TEACHER")


@dataclass(frozen=True, kw_only=True)
class Job:
    """Inputs of a method."""

    source: Path
    """Safetensors folder of the model that this stage starts from."""
    pattern: Pattern
    """Pattern that every target must have at the end."""
    targets: tuple[str, ...]
    """Module names of the linears to prune. Nothing else is pruned."""
    prior: Prior | None = None
    blocks: tuple[int, ...] | None = None
    """Indices of the dense model's blocks that `source` has, in order; None for all."""
    calibration: Tensor | None = None
    """int64 [sequences, seqlen]"""
    all_experts: bool = False
    """True if every expert of a mixture sees all calibration tokens, and not only those routed to
    it."""
    training: Corpus | None = None
    validation: Tensor | None = None
    """int64 [windows, seqlen]"""
    teacher: Callable[[], nn.Module] = _no_teacher
    """Loads the frozen dense model when it is called."""
    environment: Environment | None = None
    """Environment of a method that needs ISOLATED."""
    compute: Compute = field(default_factory=Compute)
    budget: Budget = field(default_factory=Budget)
    seed: int = 0
    workdir: Path = Path()
    """Folder for a trainer's checkpoints or a streamed model's shards."""
    progress: Progress = field(default_factory=NoProgress)


class Outcome(NamedTuple):
    """Result of a method. The runner also stores the low-rank terms that linears of the loaded
    model have then."""

    model: nn.Module | Path
    """Module, or a folder if the model was streamed or the method ran in another environment."""
    changed: frozenset[str] = frozenset()
    """Names of tensors outside the targets that the method changed. All others must be
    unchanged."""
    notes: Mapping[str, Any] = MappingProxyType({})
    """JSON for the record: shown, never ranked."""
    config: Mapping[str, Any] = MappingProxyType({})
    """Keys of config.json that the method changed."""
    kept: Kept | None = None
    """Indices of the parts to keep, by axis (`methods.contract.axes`); None for all. The runner
    removes the rest, and `model` must be unchanged but for tensors of whole parts in `changed`. If
    the model was streamed, `model` is then a folder of those tensors."""
    stored: Mapping[str, StoredWeight] = MappingProxyType({})
    """Stored weights by target. The runner writes them, compares them and counts their bytes."""
    constants: Constants = MappingProxyType({})
    """Constants in place of the experts that `kept` removes. The runner writes them beside the
    weights."""
    storage: Storage | None = None
    """Bytes that a library says its weights take, if nothing of them is in `stored`. Its row is
    marked as claimed."""


class Method(Protocol):
    """A frozen dataclass. Its fields are the hyperparameters that can be typed.

    The first paragraph of its docstring is shown in lists. `info: ClassVar[MethodInfo]` states its
    paper, its cost, what it does and its limits (`methods.contract.info`).

    A method with `shares_calibration: ClassVar[bool] = True` can run in several processes
    (`calibration.processes`). The statistic of its walk must be a sum over tokens, each target must
    depend only on its own statistic, and counts over targets must be summed with `walk.total`. The
    walk does the rest.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs]

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        """Change the weights of the job's targets in place, so that each has the job's pattern, and
        return the model."""
        ...
