"""Events of a worker to its runner, as JSON lines."""

from __future__ import annotations

import json
import math
import time
from typing import Any, TextIO

WAITING = "waiting for another worker"
"""State of a worker while another one makes what it needs."""

MAX_STEPS = 10**12
"""Largest number of steps of a phase."""


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
        total = max(0, min(int(total), MAX_STEPS))
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
