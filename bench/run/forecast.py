"""When a phase will end, and when a run will: the plan's estimates, scaled by what this run has taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

Clock = Callable[[], float]

MIN_SECONDS = 60.0
"""Where only proportions are known, a first artifact that takes less than this says too little about the others."""


def clock_time(seconds: float) -> str:
    """The time of day in so many seconds."""
    return time.strftime("%H:%M:%S", time.localtime(time.time() + seconds))


class Pace:
    """How fast a phase goes."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Another artifact begins."""
        self._phase, self._since, self._first, self._last = "", self._clock(), 0, 0

    def advance(self, phase: str, done: int, total: int) -> float | None:
        """Seconds until the phase ends; None where nothing is known yet, as after its first step.

        A resumed training begins in the middle: the pace is counted from where it was first seen.
        """
        if phase != self._phase or done < self._last:
            self._phase, self._since, self._first = phase, self._clock(), done
        self._last = done
        if done <= self._first:
            return None
        return (self._clock() - self._since) / (done - self._first) * (total - done)


class Forecast:
    """Estimated seconds go in; what is left of the run comes out."""

    def __init__(self, estimates: Mapping[str, float], *, are_seconds: bool, clock: Clock = time.monotonic) -> None:
        """estimates: of each artifact, by key. are_seconds: or only proportions, as on a device of unknown speed."""
        self._left, self._clock = dict(estimates), clock
        self._scale = 1.0 if are_seconds else None
        self._estimated = self._taken = self._started = 0.0
        self._current = ""
        self._phase_left = 0.0

    def start(self, key: str) -> None:
        """An artifact begins, or its process has imported its libraries, which those after it need not."""
        self._current, self._started, self._phase_left = key, self._clock(), 0.0

    def advance(self, phase_left: float | None) -> None:
        """The artifact that began last is in a phase that ends in so many seconds."""
        self._phase_left = phase_left or 0.0

    def end(self, measured: bool = True) -> None:
        """The artifact that began last has ended. measured: or another run has measured it."""
        estimate = self._left.pop(self._current)
        if measured and estimate:
            self._taken += self._clock() - self._started
            self._estimated += estimate
            self._scale = self._taken / self._estimated
        self._current = ""

    def leave(self) -> None:
        """The artifact that began last was not taken: another run holds it."""
        self._current = ""

    def seconds_left(self) -> float | None:
        """Of the whole run; None where too little is known."""
        scale, own = self._scale, 0.0
        others = sum(seconds for key, seconds in self._left.items() if key != self._current)
        if self._current:
            elapsed, estimate = self._clock() - self._started, self._left[self._current]
            at_least = elapsed + self._phase_left
            own = max(estimate * (scale or 0.0) - elapsed, self._phase_left)
            if scale is None:
                scale = at_least / estimate if at_least >= MIN_SECONDS and self._phase_left else None
            elif at_least > estimate * scale:  # it takes longer than was thought, and others may, too
                scale = (self._taken + at_least) / (self._estimated + estimate)
        return None if scale is None else own + others * scale
