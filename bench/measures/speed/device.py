"""What a device must offer so that whole models can be timed on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import nn

from bench.kernels.timing import Clock, Work
from bench.measures.speed.comparison import Peaks

StepFactory = Callable[[Any], Work]
"""From a model to one step of it: a function without arguments."""

Contestants = tuple[dict[str, Work], dict[str, Work], dict[str, Work]]
"""Dense, 2:4, and others."""


class Device(Protocol):
    """A CPU or a CUDA device."""

    @property
    def clock(self) -> Clock: ...

    @property
    def name(self) -> str: ...

    def peaks(self) -> Peaks:
        """Measure the device's peak rates."""
        ...

    def engine(self, kind: str) -> str:
        """The engine of Linear24 for this kind of weight.

        Raises:
            Skipped: there is none.
        """
        ...

    def steps(
        self, dense: dict[str, nn.Module], sparse: dict[str, nn.Module], make: StepFactory, small: bool
    ) -> Contestants:
        """What is timed of each model: as it is, as a CUDA graph, compiled, ... small: a step takes few tokens."""
        ...
