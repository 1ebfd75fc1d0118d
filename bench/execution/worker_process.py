"""A worker process in the runner: its pipes and its end."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import psutil

from bench.execution.executor import Worker
from bench.planning.artifact import Artifact
from bench.planning.memory import state_bytes

LOOK_S = 0.2
"""Seconds between two looks for the end of a worker."""
EXIT_S = 10.0
"""Seconds that a worker has to end after its work."""
CHECKPOINT_S, SAVED_BYTES_PER_S, MOST_CHECKPOINT_S = 4.0, 1e8, 120.0
"""Seconds that a training worker has to end, besides those in which a slow disk takes its state,
and the most of both."""
LOG_BYTES = 20_000
"""Number of bytes of a worker's last output for the record of its death."""


def checkpoint_seconds(artifact: Artifact) -> float:
    """Return the seconds that a training worker has to save its state and end, 0 without a
    training.

    After them the training resumes from an earlier state.
    """
    if not artifact.training:
        return 0.0
    return min(
        MOST_CHECKPOINT_S, CHECKPOINT_S + state_bytes(artifact) / artifact.nodes / SAVED_BYTES_PER_S
    )


def is_readable(descriptor: int, timeout: float | None) -> bool:
    """Return whether it has something to read or has ended, within a timeout in seconds. It may be
    above 1023, unlike for select."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    milliseconds = None if timeout is None else 1000 * timeout
    return bool(poll.poll(milliseconds))


class WorkerProcess(Worker):
    """A worker that leads its own session, so that signals of the terminal do not reach it."""

    def __init__(self, pid: int, stdin: IO[str], stdout: int) -> None:
        """stdout: the reading end of its pipe, which this object closes."""
        self.pid, self._stdin, self._stdout = pid, stdin, stdout

    def send(self, line: str) -> None:
        """Write a line to its stdin. If it has ended, its exit code will show that."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.write(line + "\n")
            self._stdin.flush()

    def lines(self) -> Iterator[str]:
        """Yield lines of its stdout until it ends. A process that it left behind may hold the pipe
        open."""
        rest, has_ended = b"", False
        while True:
            if is_readable(self._stdout, 0 if has_ended else LOOK_S):
                part = os.read(self._stdout, 65536)
                if not part:
                    return
                *lines, rest = (rest + part).split(b"\n")
                for line in lines:
                    yield line.decode(errors="replace")
            elif has_ended:
                return
            else:
                has_ended = self.wait(0) is not None
                if has_ended:
                    self._kill_group()

    @abstractmethod
    def send_signal(self, signum: int) -> None:
        """Send a signal, unless it has ended."""

    def is_stopped(self) -> bool:
        try:
            return bool(psutil.Process(self.pid).status() == psutil.STATUS_STOPPED)
        except psutil.Error:  # it has ended
            return False

    def ask_to_end(self) -> None:
        """Send SIGTERM. A stopped process receives it after SIGCONT."""
        self.send_signal(signal.SIGTERM)
        self.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._kill_group()
        self.send_signal(signal.SIGKILL)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Wait for its end, kill the rest of its group, and close the pipes."""
        try:
            with contextlib.suppress(BrokenPipeError):
                self._stdin.close()
            self.wait(EXIT_S)
        finally:
            self.kill()
            self.wait()
            os.close(self._stdout)


def read_end(log: Path) -> str:
    """Read the last output of a worker."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_BYTES))
        return file.read().decode(errors="replace")


class StartedWorker(WorkerProcess):
    def __init__(self, command: list[str], log: IO[str], environment: dict[str, str]) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command,
            stdin=pipe,
            stdout=pipe,
            stderr=log,
            text=True,
            env=environment,
            start_new_session=True,
        )
        assert self._process.stdin and self._process.stdout
        super().__init__(
            self._process.pid, self._process.stdin, os.dup(self._process.stdout.fileno())
        )
        self._process.stdout.close()

    def wait(self, timeout: float | None = None) -> int | None:
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, signum: int) -> None:
        self._process.send_signal(signum)
