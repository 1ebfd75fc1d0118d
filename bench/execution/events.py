"""Events of a worker to its runner, as JSON lines.

A method can write to the channel, too, so the runner reads each line as if it came from outside.
"""

from __future__ import annotations

import json
import math
import time
from typing import Any, TextIO

from pydantic import BaseModel, FiniteFloat

from bench.results.identity import Whole
from bench.results.record import Status

WAITING = "waiting for another worker"
"""State of a worker while another one makes what it needs."""

OWED = {
    "busy": set[str](),
    "imported": set[str](),
    "begun": {"wait"},
    "node": {"name", "shares_results"},
    "fatal": {"reason"},
    "state": {"phase", "state"},
    "progress": {"phase", "done", "total", "figures"},
    "measurement": {"key", "status"},
}
"""Fields that each kind of event has."""


class _Event(BaseModel, extra="forbid", strict=True):
    """Fields of all kinds."""

    event: str
    wait: bool = False
    name: str = ""
    shares_results: bool = False
    reason: str = ""
    phase: str = ""
    state: str = ""
    done: Whole = 0
    total: Whole = 0
    figures: dict[str, FiniteFloat] = {}
    key: str = ""
    status: Status = "ok"
    known: bool = False


def read_event(line: str) -> dict[str, Any]:
    """Return the event of a line. Raise ValueError for a line that no worker sends."""
    event = _Event.model_validate_json(line).model_dump(exclude_unset=True)
    owed = OWED.get(event["event"])
    if owed is None or not event.keys() >= owed or event.get("done", 0) > event.get("total", 0):
        raise ValueError("an unknown event, a missing field, or more steps done than there are")
    return event


class Events:
    """Writer of events, with at most ten about progress in a second."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._last = stream, 0.0
        self.phase = ""
        self.figures: dict[str, float] = {}
        """Those of the last progress."""

    def emit(self, event: str, **fields: Any) -> None:
        """Write an event. Raise SystemExit if the runner is gone, which no method catches."""
        try:
            self._stream.write(json.dumps({"event": event, **fields}) + "\n")
            self._stream.flush()
        except BrokenPipeError:
            raise SystemExit(1) from None

    def enter(self, state: str) -> None:
        """Report the state before the phase's first step: "importing", "loading" or "first
        step"."""
        self.emit("state", phase=self.phase, state=state)

    def advance(self, done: int, total: int, **figures: float) -> None:
        """Report progress. A method may pass any numbers, also those of NumPy and torch."""
        now = time.monotonic()
        total = max(0, int(total))
        done = max(0, min(int(done), total))
        figures = {name: float(value) for name, value in figures.items()}
        self.figures = figures
        if done >= total or now - self._last > 0.1:
            self._last = now
            # JSON has no infinity.
            finite = {name: value for name, value in figures.items() if math.isfinite(value)}
            self.emit("progress", phase=self.phase, done=done, total=total, figures=finite)


def describe_figures(figures: dict[str, float]) -> list[str]:
    """Describe the figures of a method: "loss 2.31", "1,234 tokens/s"."""
    texts = []
    for name, value in figures.items():
        if name == "tokens_per_s":
            texts.append(f"{value:,.0f} tokens/s")
        else:
            texts.append(f"{name.replace('_', ' ')} {value:.4g}")
    return texts
