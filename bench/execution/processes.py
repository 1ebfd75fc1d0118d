"""A process for each artifact: the first is started anew, the others are forked from a server that has imported all.

The server (bench.execution.fork_server) starts beside the first worker, which loads meanwhile. Where forking is not safe, each
worker is started anew.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import IO

from bench.execution.forked import ForkServer, ServerEnded
from bench.execution.worker_process import StartedWorker, WorkerProcess
from bench.planning.artifact import Measurement
from bench.system import interpreter
from bench.system.devices import matching_onednn_limit
from bench.system.interpreter import OWN_PACKAGES
from methods.folder import Folder

KEEPS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**40)}
"""glibc would return each large tensor's memory and get it anew, page by page."""
SHORT_SPIN = {"GOMP_SPINCOUNT": "4000"}
"""How long OpenMP's threads spin before they sleep. By default about a hundred times as long, which takes the cores from
another run on the machine: two runs then take five times one. Not spinning at all costs a lone run up to a tenth. Measured by
benchmarks/side_by_side.py."""


def worker_environment() -> dict[str, str]:
    """This process's, without the current folder on Python's path, and what is best for a worker where it does not say."""
    spin = {} if "OMP_WAIT_POLICY" in os.environ else SHORT_SPIN
    return KEEPS_MEMORY | spin | matching_onednn_limit() | interpreter.environment()


class WorkerProcesses:
    """Starts the workers of one run on this machine: the local executor."""

    queues = False

    def __init__(self, count: int, preload: Sequence[str], jobs: int = 1) -> None:
        """count: how many will be started, about; preload: modules that they import; jobs: how many at a time."""
        self._count, self._preload = count, preload
        self.jobs = jobs
        self._server: ForkServer | None = None
        self.problem = ""
        """That workers are not forked, and why, where that was not to be expected."""

    def start(self, log: IO[str]) -> WorkerProcess:
        """Start a worker that writes what it prints to `log`."""
        if self._server:
            try:
                return self._server.fork(log)
            except ServerEnded as ended:
                self.problem = f"workers start slower from here on: {ended}"
                self.close()
                self._count = 0
        worker = StartedWorker(interpreter.command("bench.execution.worker"), log, worker_environment())
        if self._count > 1 and can_fork():
            self._server = ForkServer(self._preload, worker_environment())
        return worker

    def reruns(self, code: int | None) -> bool:
        """Never: here it would end in the same way."""
        return False

    @property
    def own(self) -> tuple[int, ...]:
        """Processes beside the workers."""
        return (self._server.pid,) if self._server else ()

    def close(self) -> None:
        if self._server:
            self._server.close()
            self._server = None


def list_imports(measurements: Iterable[Measurement]) -> tuple[str, ...]:
    """The modules that workers on these measurements import, but for those of plug-ins."""
    modules = {"bench.execution.build": None, "bench.execution.measure": None}
    for measurement in measurements:
        family = Folder(measurement.artifact.folder).config["model_type"]
        modules[f"transformers.models.{family}.modeling_{family}"] = None
        targets = (measurement.target, *(stage.target for stage in measurement.artifact.stages))
        for module in (*(target.partition(":")[0] for target in targets), *measurement.imports):
            if module.partition(".")[0] in OWN_PACKAGES:
                modules[module] = None
    return tuple(modules)


def can_fork() -> bool:
    """Linux alone: elsewhere system libraries start threads that a fork breaks."""
    if sys.platform != "linux":
        return False
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:  # an old kernel
        return False
    return True
