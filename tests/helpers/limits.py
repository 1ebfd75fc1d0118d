"""Bounds on one piece of work, so that a hang or a flood fails its own test."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECONDS = 2
"""Of processor time: a machine that is busy with something else is no hang."""
WAIT_SECONDS = 60
"""For what waits and does not work, for example a pipe."""
BYTES = 500 * 10**6


class TooLong(BaseException):
    """No Exception: the work must not take it for an error of its own."""


@contextmanager
def limits(seconds: float = SECONDS, bytes_: int = BYTES) -> Iterator[None]:
    """In the main thread: more processor time raises TooLong, and more memory MemoryError."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + bytes_, before[1]))
    handlers = {
        number: signal.signal(number, _raise) for number in (signal.SIGPROF, signal.SIGALRM)
    }
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, WAIT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def _raise(number: int, frame: object) -> None:
    raise TooLong(signal.Signals(number).name)
