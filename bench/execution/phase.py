"""The display of a long command that works in its own process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.reporting.words import clock_time
from bench.system.terminal import step_bar

EVERY_S = 10.0
"""Least seconds between two lines of a phase."""
EVERY_PART = 0.1
"""Least part of a phase between two of its lines."""


class Phase:
    """The progress of one phase: a bar with the time left, or up to ten lines with the finish time.

    It fits where a method or a Builder takes a progress.
    """

    def __init__(
        self,
        name: str,
        note: Callable[[str], None],
        show: Callable[[int, int], None] | None = None,
    ) -> None:
        """note: receives the lines. show: draws the bar from the steps that are done, and all.
        None: there is no bar."""
        self.phase, self.figures = "", dict[str, float]()
        self._name, self._note, self._show = name, note, show
        self._first: tuple[float, int] | None = None
        """Time and number of steps at the first call: earlier ones may have been known."""
        self._said = time.monotonic(), 0
        """Time and number of steps of the last line."""

    def enter(self, state: str) -> None: ...

    def advance(self, done: int, total: int, **figures: float) -> None:
        if self._show:
            self._show(done, total)
            return
        now = time.monotonic()
        if self._first is None:
            self._first = now, done
        since, known = self._first
        said, steps = self._said
        if known < done < total and now - said >= EVERY_S and done - steps >= EVERY_PART * total:
            self._said = now, done
            left = (now - since) * (total - done) / (done - known)
            self._note(f"{self._name}: {done} of {total}, done at {clock_time(left)}")


@contextmanager
def phase(name: str, note: Callable[[str], None]) -> Iterator[Phase]:
    """Say that a phase begins, and show its progress while the block runs."""
    note(name)
    with step_bar(name) as show:
        yield Phase(name, note, show)
