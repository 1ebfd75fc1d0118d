"""Estimates of when a phase and a run will end: the plan's seconds, scaled by what this run has
taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.execution.forecast import RunForecast
from bench.execution.listener import RunningArtifact, TimeLeft
from bench.planning.artifact import Measurement

if TYPE_CHECKING:
    from bench.results.record import Record

Clock = Callable[[], float]

MIN_SECONDS = 60.0
"""Seconds that a first artifact must take before it predicts the others, if only proportions are
known."""
MAX_SECONDS = 1e10
"""Longest forecast, about 300 years. No clock shows a much later time."""
PRIOR = 0.1
"""Weight of the plan's own seconds, as a share of the longest estimate that is left."""


class Pace:
    """The pace of an artifact at work."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.started, self._clock = clock(), clock
        self.phase_left: float | None = None
        """Seconds until its phase ends, if known."""
        self._phase, self._since, self._first, self._last = "", clock(), 0, 0

    def advance(self, phase: str, done: int, total: int) -> float | None:
        """Return the seconds until the phase ends, or None before its second step.

        A resumed training begins in the middle, so the pace counts from the first step that was
        seen.
        """
        if phase != self._phase or done < self._last:
            self._phase, self._since, self._first = phase, self._clock(), done
        self._last = done
        self.phase_left = None
        steps = done - self._first
        if steps:
            seconds_a_step = (self._clock() - self._since) / steps
            self.phase_left = min(seconds_a_step * (total - done), MAX_SECONDS)
        return self.phase_left


class ScaledForecast(RunForecast):
    """An estimate of the time that is left, from the plan's seconds and those of this run."""

    def __init__(
        self,
        estimates: Mapping[str, float],
        *,
        are_seconds: bool,
        jobs: int = 1,
        total: str = "",
        clock: Clock = time.monotonic,
    ) -> None:
        """
        estimates: of each artifact, by key. are_seconds: False if only their proportions mean
        something, as for a device of unknown speed. jobs: number of artifacts at a time. total:
        sentence about the whole run.
        """
        self.total = total
        self._estimates, self._clock, self._jobs = estimates, clock, jobs
        self._left = dict(estimates)
        self._are_seconds = are_seconds
        self._estimated = self._taken = 0.0
        self._current: dict[str, Pace] = {}

    def seconds(self, measurements: Sequence[Measurement]) -> float:
        return self._estimates[measurements[0].artifact.key]

    def start(self, running: RunningArtifact, left: TimeLeft) -> None:
        self._current[running.artifact.key] = Pace(self._clock)

    def take(self, running: RunningArtifact, event: Mapping[str, Any], left: TimeLeft) -> None:
        current = self._current.get(running.artifact.key)
        if current and event["event"] == "imported":  # only the first worker imports the libraries
            current.started = self._clock()
        elif current and event["event"] == "progress":
            current.advance(event["phase"], event["done"], event["total"])

    def end(self, running: RunningArtifact, cause: str, records: Sequence[Record] | None) -> None:
        current = self._current.pop(running.artifact.key, None)
        if records is None:
            return
        estimate = self._left.pop(running.artifact.key)
        if current and running.has_measured and estimate:
            self._taken += self._clock() - current.started
            self._estimated += estimate

    def left(self, running: RunningArtifact) -> TimeLeft:
        current = self._current.get(running.artifact.key)
        return TimeLeft(self.seconds_left(), current.phase_left if current else None)

    def seconds_left(self) -> float | None:
        """Estimate the seconds until the run ends. None: too little is known."""
        prior = PRIOR * max(self._left.values(), default=0.0)
        scale = self._scale(self._taken, self._estimated, prior)
        taken, estimated, own = self._taken, self._estimated, [0.0]
        for key, current in self._current.items():
            estimate, phase_left = self._left[key], current.phase_left or 0.0
            elapsed = self._clock() - current.started
            at_least = elapsed + phase_left
            if scale is None:
                own.append(phase_left)
                is_late = at_least >= MIN_SECONDS and phase_left > 0
            else:
                own.append(max(estimate * scale - elapsed, phase_left))
                is_late = at_least > estimate * scale
            if is_late:  # the others may be late, too
                taken += at_least
                estimated += estimate
        scale = self._scale(taken, estimated, prior)
        if scale is None:
            return None
        others = sum(seconds for key, seconds in self._left.items() if key not in self._current)
        shared = (sum(own) + others * scale) / self._jobs
        return min(max(*own, shared), MAX_SECONDS)

    def _scale(self, taken: float, estimated: float, prior: float) -> float | None:
        """Return how much longer artifacts take than estimated. Those with short estimates say
        little about a long one."""
        if self._are_seconds:
            return (taken + prior) / (estimated + prior) if estimated else 1.0
        return taken / estimated if estimated and estimated >= prior else None
