"""What `bench allocate` shows while it works."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.execution.job import Silent
from bench.reporting.words import clock_time
from bench.system.terminal import step_bar, width_of

SAID_AFTER = 0.1
"""Part of a phase after which a line says its finish time, where there is no terminal."""


class Phase(Silent):
    """The progress of one phase: a bar with the time left, or a line with the finish time."""

    def __init__(
        self, name: str, note: Callable[[str], None], show: Callable[[int, int], None]
    ) -> None:
        """note: receives the line. show: receives the steps that are done, and all."""
        self._name, self._note, self._show = name, note, show
        self._is_said = width_of(sys.stderr) is not None
        self._first: tuple[float, int] | None = None
        """Time and number of steps at the first call: earlier ones may have been known."""

    def advance(self, done: int, total: int, **figures: float) -> None:
        self._show(done, total)
        now = time.monotonic()
        if self._first is None:
            self._first = now, done
        since, known = self._first
        if not self._is_said and done - known > SAID_AFTER * (total - known):
            self._is_said = True
            left = (now - since) * (total - done) / (done - known)
            self._note(f"{self._name}: {done} of {total}, done at {clock_time(left)}")


@contextmanager
def phase(name: str, note: Callable[[str], None]) -> Iterator[Phase]:
    """Say that a phase begins, and show its progress while the block runs."""
    note(name)
    with step_bar(name) as show:
        yield Phase(name, note, show)
