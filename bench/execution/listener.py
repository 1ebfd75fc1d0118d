"""Listeners of a run: the display, the journal, the trackers, the forecast, and any that a caller
adds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from bench.planning.artifact import Artifact, Measurement
    from bench.results.record import Record


class TimeLeft(NamedTuple):
    """Estimated seconds that remain. None: not known yet."""

    run: float | None = None
    phase: float | None = None
    """Seconds until the current phase of the artifact ends."""


@dataclass(eq=False)
class RunningArtifact:
    measurements: list[Measurement]
    """Measurements that have no record yet."""
    label: str
    """Name that no other artifact at work has."""
    device: str
    waits: bool = field(default=False, init=False)
    """True if its worker waits for another run that holds the artifact."""
    has_measured: bool = field(default=False, init=False)
    """True if this run has tried one of its measurements."""

    def __post_init__(self) -> None:
        self.artifact: Artifact = self.measurements[0].artifact
        self.by_key = {m.key: m for m in self.measurements}

    @property
    def settings(self) -> dict[str, Any]:
        """Settings by which logs and trackers find an artifact."""
        artifact = self.artifact
        names = ("model", "seed", "dtype", "threads", "method", "pattern", "quantizer")
        own = {name: getattr(artifact, name) for name in names}
        return own | {"arithmetic": artifact.computed_in, "device": self.device}


class RunListener:
    """Reacts to what happens in a run. Override the methods that matter; the others do nothing.

    All methods are called from the thread that runs the plan. A listener must not block it.
    """

    @property
    def own(self) -> tuple[int, ...]:
        """Ids of child processes that the run must not end."""
        return ()

    def begin(self, total: int, known: int) -> None:
        """React to the start of the run. known: number of measurements that have a record."""

    def start(self, running: RunningArtifact, left: TimeLeft) -> None:
        """React to an artifact that starts."""

    def take(self, running: RunningArtifact, event: Mapping[str, Any], left: TimeLeft) -> None:
        """React to an event of the artifact's worker (bench.execution.events)."""

    def end(self, running: RunningArtifact, cause: str, records: Sequence[Record] | None) -> None:
        """React to the end of a worker.

        cause: why it ended early, or "". records: all records of the artifact, or None if it
        returns to the queue.
        """

    def note(self, text: str) -> None:
        """React to a sentence for the user."""

    def close(self, fault: BaseException | None) -> None:
        """React to the end of the run. fault: what ended it early."""


Added = TypeVar("Added", bound=RunListener)


def _to_each(name: str) -> Callable[..., None]:
    """Return a method that calls the method of this name of each listener."""

    def call(self: Listeners, *arguments: Any) -> None:
        for listener in self._listeners:
            getattr(listener, name)(*arguments)

    return call


class Listeners(RunListener):
    """Several listeners as one. It closes them when its block ends."""

    def __init__(self, *listeners: RunListener) -> None:
        self._listeners = list(listeners)

    def add(self, listener: Added) -> Added:
        self._listeners.append(listener)
        return listener

    def __enter__(self) -> Listeners:
        return self

    def __exit__(self, kind: object, fault: BaseException | None, traceback: object) -> None:
        self.close(fault)

    @property
    def own(self) -> tuple[int, ...]:
        return tuple(pid for listener in self._listeners for pid in listener.own)

    begin = _to_each("begin")
    start = _to_each("start")
    take = _to_each("take")
    end = _to_each("end")
    note = _to_each("note")

    def close(self, fault: BaseException | None) -> None:
        """Close all of them, the last first, even if one fails."""
        with contextlib.ExitStack() as stack:
            for listener in self._listeners:
                stack.callback(partial(listener.close, fault))
