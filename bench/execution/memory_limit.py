"""The limit of the memory that a run takes on this machine."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections import Counter
from collections.abc import Collection

import psutil

LOOK_S = 1.0
"""Shortest time between two looks in seconds."""


def return_free_memory() -> None:
    """Return to the system what this process has freed. Workers let glibc keep it otherwise
    (bench.execution.processes.KEEPS_MEMORY)."""
    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)


class MemoryLimit:
    """Finds the worker to kill before a run takes the memory that others need."""

    def __init__(self, share: float) -> None:
        """share: that of the machine's memory."""
        self._max_bytes = share * psutil.virtual_memory().total
        self._looked = time.monotonic()

    def find_largest(self, workers: Collection[int]) -> int | None:
        """Return the process id of the worker that takes most memory, with the processes that it
        started, if all together take more than the limit. Pages of files do not count."""
        if time.monotonic() - self._looked < LOOK_S:
            return None
        self._looked = time.monotonic()
        taken: Counter[int] = Counter()
        for worker in workers:
            with contextlib.suppress(psutil.Error):  # it has ended, or is on another machine
                process = psutil.Process(worker) if worker else None
                for each in [process, *process.children(recursive=True)] if process else []:
                    with contextlib.suppress(psutil.Error):
                        about = each.memory_info()
                        taken[worker] += about.rss - getattr(about, "shared", 0)
        if taken.total() <= self._max_bytes:
            return None
        return taken.most_common(1)[0][0]
