"""Where artifacts are made: hand one out, and take back what its worker says and how it ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Protocol

from bench.execution.forked import SERVER_GONE

LOST = 1002
"""Exit code of a worker of which nothing is known any more, nor of the machine that it ran on."""


def describe_end(code: int | None) -> str:
    """How a process ended, from its exit code or minus the signal that ended it."""
    if code is None or code == SERVER_GONE:
        return "the process and its fork server ended; was one of them killed?"
    if code == LOST:
        return "its process or its machine was lost"
    if code == -9:
        return "the process was killed (signal 9), as the system does when memory runs out"
    return f"the process ended on signal {-code}" if code < 0 else f"the process ended with code {code}"


class Worker(Protocol):
    """One artifact at work: it is sent an assignment (bench.execution.worker.Assignment) and answers with events."""

    pid: int
    """0 where it is no child of this process."""

    def send(self, line: str) -> None:
        """Its assignment, as JSON."""
        ...

    def lines(self) -> Iterator[str]:
        """Each event, as JSON (bench.execution.events), until it ends."""
        ...

    def wait(self, timeout: float | None = None) -> int | None:
        """Its exit code, once it has ended, or minus the signal that ended it; None if it has not within `timeout`."""
        ...

    def send_signal(self, signum: int) -> None: ...

    def stop(self, patience: float) -> None:
        """Ask it to end, and kill it if it has not within `patience` seconds."""
        ...

    def kill(self) -> None: ...

    def close(self) -> None:
        """Let it end, and take along what is left of it."""
        ...


class Executor(Protocol):
    """Starts workers. Records do not tell which executor it was."""

    problem: str
    """What slows it down, where that was not to be expected; cleared by who says so."""
    queues: bool
    """Whether a worker waits for its turn: it says "begun" then."""

    @property
    def jobs(self) -> int:
        """How many artifacts to hand out at a time."""
        ...

    @property
    def own(self) -> tuple[int, ...]:
        """Child processes beside the workers."""
        ...

    def start(self, log: IO[str]) -> Worker:
        """A worker that leaves what it prints in `log`."""
        ...

    def reruns(self, code: int | None) -> bool:
        """Whether an artifact whose worker ended so is made again elsewhere: its machine is to blame."""
        ...

    def close(self) -> None: ...
