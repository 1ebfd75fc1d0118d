"""What a measure is: the mirror image of a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from bench.results import identity
from bench.results.record import Item, Reading

if TYPE_CHECKING:
    from torch import nn

    from bench.verify import Verdict
    from methods.contract import Compute, Needs, Progress
    from methods.quantizing.stored import Stored


@dataclass(frozen=True)
class Readings:
    values: tuple[Reading, ...]
    items: tuple[Item, ...] = ()
    tokens: int = 0
    token_digest: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MeasureContext:
    """What a measure may use beside the model."""

    folder: Path
    """The artifact being measured."""
    source: Path
    """The dense model's folder."""
    dense: bool
    """Is what is measured the dense model itself?"""
    tokenizer: Callable[[], Any]
    reference: Callable[[], nn.Module]
    """Loads the dense model, only when asked."""
    verdict: Verdict
    """What the runner's own check of the artifact found."""
    stored: Stored | None = None
    """How a quantizer says its weights would be stored."""
    compute: Compute
    data_dir: Path | None
    workdir: Path
    progress: Progress
    seed: int | None


class Measure(Protocol):
    """A frozen dataclass; its fields and its protocol are known before anything is loaded.

    One whose class says `streams = True` is given models larger than the device as rig.compute.stream says: without
    their blocks, which lie in rig.folder and rig.source. All others are given whole models.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs]

    @property
    def protocol(self) -> identity.Protocol | str:
        """What two numbers must share to stand in one column; text is a protocol's name."""
        ...

    def read(self, model: Callable[[], nn.Module], rig: MeasureContext) -> Readings: ...
