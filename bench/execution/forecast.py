"""When a phase will end, and when a run will: the plan's estimates, scaled by what this run has taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
        self._phase, self._since, self._first, self._last = "", clock(), 0, 0

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


@dataclass
class _Current:
    """An artifact at work. phase_left: seconds until its phase ends; 0 where that is not known."""

    started: float
    phase_left: float = 0.0


class Forecast:
    """Estimated seconds go in; what is left of the run comes out."""

    def __init__(
        self, estimates: Mapping[str, float], *, are_seconds: bool, jobs: int = 1, clock: Clock = time.monotonic
    ) -> None:
        """estimates: of each artifact, by key. are_seconds: or only proportions, as on a device of unknown speed; jobs:
        artifacts side by side."""
        self._left, self._clock, self._jobs = dict(estimates), clock, jobs
        self._scale = 1.0 if are_seconds else None
        self._estimated = self._taken = 0.0
        self._current: dict[str, _Current] = {}

    def start(self, key: str) -> None:
        """An artifact begins, or its process has imported its libraries, which those after it need not."""
        self._current[key] = _Current(self._clock())

    def advance(self, key: str, phase_left: float | None) -> None:
        """An artifact at work is in a phase that ends in so many seconds."""
        self._current[key].phase_left = phase_left or 0.0

    def end(self, key: str, measured: bool = True) -> None:
        """An artifact has ended. measured: or another run has measured it."""
        estimate, current = self._left.pop(key), self._current.pop(key, None)
        if current and measured and estimate:
            self._taken += self._clock() - current.started
            self._estimated += estimate
            self._scale = self._taken / self._estimated

    def leave(self, key: str) -> None:
        """An artifact was not taken, as another run holds it, or its worker was lost."""
        self._current.pop(key, None)

    def seconds_left(self) -> float | None:
        """Of the whole run; None where too little is known."""
        scale, taken, estimated, own = self._scale, 0.0, 0.0, [0.0]
        for key, current in self._current.items():
            elapsed, estimate = self._clock() - current.started, self._left[key]
            at_least = elapsed + current.phase_left
            own.append(max(estimate * (scale or 0.0) - elapsed, current.phase_left))
            is_late = (
                at_least > estimate * scale if scale is not None else at_least >= MIN_SECONDS and current.phase_left
            )
            if is_late:  # others may be, too
                taken, estimated = taken + at_least, estimated + estimate
        if estimated:
            scale = (self._taken + taken) / (self._estimated + estimated)
        others = sum(seconds for key, seconds in self._left.items() if key not in self._current)
        return None if scale is None else max(*own, (sum(own) + others * scale) / self._jobs)
