"""One artifact at work in its worker process, and the events that it sends."""

from __future__ import annotations

import contextlib
import os
import threading
from queue import Empty, SimpleQueue
from typing import Any

from bench.execution.events import WAITING, read_event
from bench.execution.executor import FORGED, STALLED, Executor, Worker
from bench.execution.listener import RunningArtifact
from bench.execution.worker import Assignment
from bench.planning.artifact import Measurement
from bench.system.cache import cache_dir, in_use

EventQueue = SimpleQueue[tuple["ArtifactTask", dict[str, Any] | BaseException | None]]
"""Events of all tasks of a run. None: the worker closed its output. An exception: its output cannot
be read."""
JOIN_S = 10.0
"""Seconds that a reader thread has to notice that its worker has ended."""
WAKE_S = 1.0
"""Seconds between two looks for a signal, which does not end a wait if another thread received
it."""
STOPPED_S = 10.0
"""Seconds without an event after which the runner asks whether the worker is stopped."""
MAX_WAIT = 10
"""Longest wait for a worker of another machine, as a factor of the stall limit."""


def next_event(
    events: EventQueue,
) -> tuple[ArtifactTask, dict[str, Any] | BaseException | None] | None:
    """Wait for the next event of any task. Return None after WAKE_S. Signals interrupt the wait."""
    with contextlib.suppress(Empty):
        return events.get(timeout=WAKE_S)
    return None


class ArtifactTask(RunningArtifact):
    def __init__(
        self, measurements: list[Measurement], label: str, executor: Executor, device: str
    ) -> None:
        super().__init__(measurements, label, device)
        self.missing = dict(self.by_key)
        self.is_busy = False
        """True if another run holds the artifact."""
        self.has_begun = not executor.queues
        self.may_wait = False
        """True while the artifact waits for another run."""
        self.says_it_waits = False
        """True while its worker says that it waits for another one."""
        self.is_far = executor.queues
        """True if the worker may use the cache of another machine."""
        self.idle_s = 0.0
        """Seconds since the last event."""
        self.events = 0
        """Number of events so far."""
        self.is_stopped = False
        """True if a signal stopped the worker."""
        self.killed: int | None = None
        """Exit code that says why the runner killed the worker."""
        # Runs may share an artifact.
        self.log = cache_dir() / "logs" / f"{self.artifact.key[:32]}.{os.getpid()}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            held.enter_context(in_use(self.log.stem))
            self.worker: Worker = executor.start(held.enter_context(self.log.open("w")))
            self._held = held.pop_all()
        self._reader: threading.Thread | None = None

    def begin(self, job: Assignment, events: EventQueue) -> None:
        """Send the worker its assignment, and put its events into `events` from now on."""
        self.worker.send(job.on(self.device).model_dump_json())
        self._reader = threading.Thread(target=self._read, args=(events,), daemon=True)
        self._reader.start()

    def note_progress(self, event: dict[str, Any]) -> None:
        """Start to count the seconds without an event again."""
        self.idle_s, self.is_stopped = 0.0, False
        self.may_wait, self.says_it_waits = False, event.get("state") == WAITING

    def note_time(self, seconds: float, timeout: float) -> bool:
        """Count seconds without an event, and kill the worker after `timeout` of them. Return
        whether it is found stopped for the first time."""
        if not self.has_begun:
            return False
        self.idle_s += seconds
        was_stopped = self.is_stopped
        self.is_stopped = self.idle_s > STOPPED_S and self.worker.is_stopped()
        may_wait = not self.is_stopped and (self.may_wait or self.says_it_waits)
        if may_wait and not self.is_far:
            self.idle_s = min(self.idle_s, 2 * STOPPED_S)
        elif self.idle_s > timeout * (MAX_WAIT if may_wait and self.is_far else 1):
            self.kill(STALLED)
        return self.is_stopped and not was_stopped

    def kill(self, why: int) -> None:
        """Kill the worker. why: the exit code that its artifact gets."""
        if self.killed is None:
            self.killed = why
            self.worker.kill()

    def _read(self, events: EventQueue) -> None:
        try:
            for line in self.worker.lines():
                events.put((self, read_event(line)))
            events.put((self, None))
        except ValueError:
            self.kill(FORGED)
            events.put((self, None))
        except BaseException as fault:  # noqa: BLE001 (the run raises it again)
            events.put((self, fault))

    def close(self) -> None:
        """Wait for the worker, and end the processes that it left."""
        with self._held:
            if self._reader:
                self._reader.join(JOIN_S)
            self.worker.close()
