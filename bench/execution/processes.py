"""The local executor: a process for each artifact, forked from a server that has imported the
libraries (bench.execution.fork_server).

A single worker, and each one where forks are not safe, is a new process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import IO

from bench.execution.forked import ForkServer, ServerEnded
from bench.execution.worker_process import StartedWorker, WorkerProcess
from bench.planning.artifact import Measurement, Plan
from bench.results.store import Store
from bench.system import interpreter
from bench.system.devices import EXPANDABLE_SEGMENTS, matching_onednn_limit
from bench.system.interpreter import OWN_PACKAGES

KEEPS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**40)}
"""Settings with which glibc keeps the memory of large tensors instead of returning it to the
system."""
FEW_KERNELS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64"}
"""Number of compiled kernels that oneDNN keeps, a sixteenth of its default.

It compiles one for each number of rows, about half a megabyte each, and each expert of a mixture
gets another number of tokens.
"""
SHORT_SPIN = {"GOMP_SPINCOUNT": "4000"}
"""Time that OpenMP's threads spin before they sleep, a hundredth of the default.

The default slows a second run on the machine, and no spin slows a single one
(benchmarks/side_by_side.py).
"""


def worker_environment() -> dict[str, str]:
    """Return our environment without the current folder on Python's path, with defaults for
    workers."""
    spin = {} if "OMP_WAIT_POLICY" in os.environ else SHORT_SPIN
    memory = KEEPS_MEMORY | FEW_KERNELS
    defaults = memory | spin | matching_onednn_limit() | EXPANDABLE_SEGMENTS
    return defaults | interpreter.environment()


class WorkerProcesses:
    """Workers of one run on this machine."""

    queues = False

    def __init__(self, count: int, preload: Sequence[str], jobs: int = 1) -> None:
        """count: approximate number of workers. preload: modules that they import. jobs: number of
        workers at a time."""
        self._count, self._preload = count, preload
        self.jobs = jobs
        self._server: ForkServer | None = None
        self.problem = ""

    def start(self, log: IO[str]) -> WorkerProcess:
        if not self._server and self._count > 1 and can_fork():
            self._server = ForkServer(self._preload, worker_environment())
        if self._server:
            try:
                return self._server.fork(log)
            except ServerEnded as ended:
                self.problem = f"workers start slower from here on: {ended}"
                self.close()
                self._count = 0
        command = interpreter.command("bench.execution.worker")
        return StartedWorker(command, log, worker_environment())

    def reruns(self, code: int | None) -> bool:
        """Return False: it would end in the same way here."""
        return False

    @property
    def own(self) -> tuple[int, ...]:
        return (self._server.pid,) if self._server else ()

    def close(self) -> None:
        if self._server:
            self._server.close()
            self._server = None


class LocalExecutor(WorkerProcesses):
    """Processes of this machine."""

    def __init__(self, plan: Plan, missing: Sequence[list[Measurement]], store: Store) -> None:
        preload = list_imports(m for measurements in missing for m in measurements)
        super().__init__(len(missing), preload, plan.jobs)


def list_imports(measurements: Iterable[Measurement]) -> tuple[str, ...]:
    """List the modules that workers import for these measurements, without plug-ins.

    pyarrow imports pandas when it makes a table of Python's lists.
    """
    modules = {"bench.execution.build": None, "bench.execution.measure": None, "pandas": None}
    for measurement in measurements:
        # The text part of a family with images is in the family's module.
        family = measurement.artifact.family.removesuffix("_text")
        modules[f"transformers.models.{family}.modeling_{family}"] = None
        targets = (measurement.target, *(stage.target for stage in measurement.artifact.stages))
        for module in (*(target.partition(":")[0] for target in targets), *measurement.imports):
            if module.partition(".")[0] in OWN_PACKAGES:
                modules[module] = None
    return tuple(modules)


def can_fork() -> bool:
    """Return whether forks are safe. Outside Linux, system libraries start threads that a fork
    breaks."""
    if sys.platform != "linux":
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:  # an old kernel
        return False
    return True
