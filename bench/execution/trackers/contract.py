"""The contract of a tracker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Tracker(Protocol):
    """Shows each artifact as one run of its program. After an exception it receives nothing more.

    artifact: the key of an artifact at work.
    """

    def start(self, artifact: str, name: str, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Open a run. name: the artifact's label. params: its settings. tags: its keys and versions."""
        ...

    def curve(self, artifact: str, phase: str, step: int, figures: Mapping[str, float]) -> None:
        """Log a point of each curve of a phase."""
        ...

    def metrics(self, artifact: str, values: Mapping[str, float]) -> None:
        """Log the values of a measurement."""
        ...

    def end(self, artifact: str, ok: bool) -> None:
        """Close a run. ok: False if its worker failed."""
        ...

    def close(self) -> None:
        """Send what is left before the process ends."""
        ...
