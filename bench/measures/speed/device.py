"""What a device must answer to be timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import nn

from bench.kernels.timing import Clock, Work
from bench.measures.speed.comparison import Peaks

StepFactory = Callable[[Any], Work]

Contestants = tuple[dict[str, Work], dict[str, Work], dict[str, Work]]
"""Dense, 2:4, and beside."""


class Device(Protocol):
    """What end-to-end timing wants of one."""

    @property
    def clock(self) -> Clock: ...

    @property
    def name(self) -> str: ...

    def peaks(self) -> Peaks: ...

    def engine(self, kind: str) -> str:
        """Of Linear24. Raises Skipped where there is none."""
        ...

    def steps(
        self, dense: dict[str, nn.Module], sparse: dict[str, nn.Module], make: StepFactory, small: bool
    ) -> Contestants:
        """What of each model is timed: as it is, or as a graph, compiled, ..."""
        ...
