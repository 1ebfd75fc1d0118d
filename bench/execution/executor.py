"""Contracts of an executor, which starts workers, and of a worker."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Protocol

from bench.catalog import registry

if TYPE_CHECKING:
    from bench.planning.artifact import Measurement, Plan
    from bench.results.store import Store

SERVER_GONE = 1001
"""Exit code of a worker whose fork server ended first, so that its own code is unknown."""
LOST = 1002
"""Exit code of a worker that was lost, perhaps with its machine."""
STALLED = 1003
"""Exit code of a worker that was killed because it made no progress."""
FORGED = 1004
"""Exit code of a worker that was killed because of a line that no worker sends."""
OVER_MEMORY = 1005
"""Exit code of a worker that was killed because the run took too much memory."""

LOSSES = {
    SERVER_GONE: "the process and its fork server ended; was one of them killed?",
    LOST: "its process or its machine was lost",
    STALLED: "the process made no progress for stall_timeout seconds and was killed",
    FORGED: "the process sent an event that no worker sends and was killed: a method or measure "
    "must leave the descriptors of its process alone",
    OVER_MEMORY: "the run took more than its memory_share and this process the most of it, so it "
    "was killed: run fewer --jobs, set max_memory, or raise memory_share",
}
HINTS = {
    "SIGKILL": "as the system does when memory runs out: run fewer --jobs, or set max_memory",
    "SIGBUS": "as when a disk or shared memory is full: free some space",
    "SIGILL": "as by a library for another processor: install one for this machine",
    "SIGSEGV": "a fault of a library: bench show RECORD prints its log",
}
"""Usual cause of a signal that ends a process, and what helps."""
NAMES = {int(one): one.name for one in signal.Signals}
"""Names of signals. Those for real-time programs have none."""


def describe_end(code: int | None) -> str:
    """Describe an exit code, or minus the signal that ended a process."""
    if code is None or code in LOSSES:
        return LOSSES[code or SERVER_GONE]
    if code >= 0:
        return f"the process ended with code {code}"
    name = NAMES.get(-code, f"signal {-code}")
    hint = f", {HINTS[name]}" if name in HINTS else ""
    return f"the process was killed by {name}{hint}"


class Worker(ABC):
    """A process that receives an assignment (bench.execution.worker.Assignment) and answers with
    events."""

    pid = 0
    """Process id, or 0 if it is no child of this process."""

    @abstractmethod
    def send(self, line: str) -> None:
        """Send an assignment as JSON."""

    @abstractmethod
    def lines(self) -> Iterator[str]:
        """Yield events as JSON (bench.execution.events) until the worker ends."""

    @abstractmethod
    def wait(self, timeout: float | None = None) -> int | None:
        """Return the exit code, or minus the signal that ended it, or None after `timeout`
        seconds."""

    @abstractmethod
    def ask_to_end(self) -> None:
        """Ask it to end, unless it has. A training saves its state first."""

    @abstractmethod
    def kill(self) -> None: ...

    def is_stopped(self) -> bool:
        """Return whether a signal stopped it, so that it waits for SIGCONT."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Wait for its end, and kill the processes that it left."""

    def stop(self, patience: float) -> None:
        """Ask it to end, and kill it after `patience` seconds."""
        try:
            self.ask_to_end()
            self.wait(patience)
        finally:
            self.kill()


class Executor(Protocol):
    """Starts workers. Records do not name the executor.

    One of another package is an entry point of the group cast_bench.executors. It may have a
    package or a machine to find before the run begins: its constructor raises UserError.
    """

    def __init__(self, plan: Plan, missing: Sequence[list[Measurement]], store: Store) -> None:
        """missing: the measurements of each artifact that have no record. store: where workers on
        other machines send their records."""

    problem: str
    """Unexpected reason why it is slow. The run prints it and clears it."""
    queues: bool
    """True if workers wait for their turn and send "begun" when it comes."""

    @property
    def jobs(self) -> int:
        """Number of artifacts to hand out at a time."""

    @property
    def own(self) -> tuple[int, ...]:
        """Ids of child processes that are no workers."""

    def start(self, log: IO[str]) -> Worker:
        """Start a worker that prints to `log`."""

    def reruns(self, code: int | None) -> bool:
        """Return whether an exit code is the machine's fault, so that another attempt elsewhere
        makes sense."""

    def close(self) -> None: ...


def start_executor(
    name: str, plan: Plan, missing: Sequence[list[Measurement]], store: Store
) -> Executor:
    """Return the executor of the catalog that has this name. Raise UserError if it cannot work
    here."""
    entry = registry.lookup("executors", name)
    with registry.guarded(entry):
        executor: Executor = registry.load(entry)(plan, missing, store)
        return executor
