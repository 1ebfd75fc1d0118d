"""What a tracker is told of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Tracker(Protocol):
    """Shows artifacts, each as a run of its own. It may raise anything: then it is told no more.

    artifact: the key of one that is at work.
    """

    def start(self, artifact: str, name: str, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """name: the artifact's label; params: what it is made by; tags: what it is known by."""
        ...

    def curve(self, artifact: str, phase: str, step: int, figures: Mapping[str, float]) -> None:
        """How a phase goes, a training above all."""
        ...

    def metrics(self, artifact: str, values: Mapping[str, float]) -> None:
        """What a measurement gave."""
        ...

    def end(self, artifact: str, ok: bool) -> None:
        """ok: its worker did what it was asked."""
        ...

    def close(self) -> None:
        """Send what is left: the process ends."""
        ...
