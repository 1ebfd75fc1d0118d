"""When a run will end: the plan's estimate for each artifact, scaled by what the artifacts of this run took."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


class Forecast:
    """Estimated seconds go in; what is left comes out, once the first artifact has ended."""

    def __init__(self, estimates: Mapping[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        """estimates: seconds of each artifact, by key. Only their proportions matter."""
        self._left, self._clock = dict(estimates), clock
        self._estimated = self._taken = self._started = 0.0

    def start(self) -> None:
        """An artifact begins."""
        self._started = self._clock()

    def end(self, key: str) -> None:
        """The artifact that began last has ended."""
        self._taken += self._clock() - self._started
        self._estimated += self._left.pop(key)

    def seconds_left(self) -> float | None:
        """For all that has not ended; None before the first has."""
        if not self._estimated:
            return None
        return sum(self._left.values()) * self._taken / self._estimated
