"""Show a run as it goes: bars and a finish time on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from typing import Protocol, TextIO

from bench.execution.events import describe_figures
from bench.execution.forecast import Pace, clock_time
from bench.system.terminal import PrintableStream
from bench.system.text import one_line

EVERY_S = 10
"""Seconds between two lines of a log about one phase."""


class ProgressDisplay(Protocol):
    """label: which artifact, of those that are made side by side. left: seconds until the whole run ends, about; None
    where not yet known."""

    def begin(self, total: int, known: int) -> None: ...
    def artifact(self, label: str, waiting: bool, left: float | None = None) -> None:
        """An artifact begins."""
        ...

    def enter(self, label: str, phase: str, state: str, left: float | None = None) -> None:
        """What is done before the first step of a phase: "importing", "loading" or "first step"."""
        ...

    def progress(
        self, label: str, phase: str, done: int, total: int, figures: dict[str, float], left: float | None = None
    ) -> None: ...
    def measurement(self, label: str, measure: str, status: str, reason: str) -> None: ...
    def leave(self, label: str) -> None:
        """An artifact has ended, or another run has it."""
        ...

    def note(self, text: str) -> None: ...
    def end(self) -> None: ...


class _Phase:
    """How far the phase of an artifact is, and when a line last said so."""

    def __init__(self) -> None:
        self.name, self.said, self.pace = "", 0.0, Pace(lambda: time.monotonic())


class LogDisplay:
    """A line per event, to a stream that is no terminal; progress at most every ten seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = PrintableStream(stream)
        self._phases: dict[str, _Phase] = {}

    def note(self, text: str) -> None:
        print(one_line(text), file=self._stream, flush=True)

    def begin(self, total: int, known: int) -> None:
        self.note(f"{total} measurements, {known} already recorded")

    def artifact(self, label: str, waiting: bool, left: float | None = None) -> None:
        self._phases[label] = _Phase()
        end = f", all done at {clock_time(left)}" if left is not None else ""
        self.note(f"{label}: {'waiting for another run' if waiting else 'started'}{end}")

    def enter(self, label: str, phase: str, state: str, left: float | None = None) -> None:
        pass

    def progress(
        self, label: str, phase: str, done: int, total: int, figures: dict[str, float], left: float | None = None
    ) -> None:
        current = self._phases.setdefault(label, _Phase())
        now, phase_left = time.monotonic(), current.pace.advance(phase, done, total)
        if phase != current.name:
            current.name, current.said = phase, now
        elif now - current.said >= EVERY_S and phase_left is not None and done < total:
            current.said = now
            end = f", all done at {clock_time(left)}" if left is not None else ""
            about = "".join(f"{figure}, " for figure in describe_figures(figures))
            self.note(f"{label}: {phase} {done}/{total}, {about}done at {clock_time(phase_left)}{end}")

    def measurement(self, label: str, measure: str, status: str, reason: str) -> None:
        self.note(f"{label}: {measure} {status}" + (f" ({reason})" if reason else ""))

    def leave(self, label: str) -> None:
        self._phases.pop(label, None)

    def end(self) -> None:
        pass


def display_for(stream: TextIO = sys.stderr) -> ProgressDisplay:
    """The display that suits the stream: bars on a terminal that can move its cursor, lines elsewhere."""
    if stream.isatty() and os.environ.get("TERM") != "dumb":
        from bench.execution.bars import RichDisplay

        return RichDisplay(stream)
    return LogDisplay(stream)
