"""One artifact at work in a process of its own, and what it says."""

from __future__ import annotations

import contextlib
import json
import threading
from queue import Empty, SimpleQueue
from typing import Any

from bench.execution.executor import Executor, Worker
from bench.execution.forecast import Pace
from bench.execution.worker import Assignment
from bench.planning.artifact import Measurement
from bench.system.cache import cache_dir, in_use

EventQueue = SimpleQueue[tuple["ArtifactTask", dict[str, Any] | BaseException | None]]
"""What the tasks of a run say, each in its order; None: a worker has said its last; or a fault of reading it."""
JOIN_S = 10.0
"""For a reader to see that its worker has ended."""
WAKE_S = 1.0
"""A wait for an event ends so often, for a signal that another thread was given or that came just before: it ends none."""


def next_event(events: EventQueue) -> tuple[ArtifactTask, dict[str, Any] | BaseException | None]:
    """Wait for what a task says, and let signals through meanwhile."""
    while True:
        with contextlib.suppress(Empty):
            return events.get(timeout=WAKE_S)


class ArtifactTask:
    """Measurements of one artifact, and the worker that takes them."""

    def __init__(self, measurements: list[Measurement], label: str, executor: Executor, device: str) -> None:
        """label: tells it from the others at work; device: where it is made."""
        self.measurements, self.label, self.device = measurements, label, device
        self.artifact = measurements[0].artifact
        self.missing = {m.key: m for m in measurements}
        self.pace = Pace()
        self.is_busy = self.has_measured = False
        """Another run holds the artifact; and whether this one has tried a measurement of it."""
        self.has_begun = not executor.queues
        self.log = cache_dir() / "logs" / f"{self.artifact.key[:32]}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            held.enter_context(in_use(self.artifact.key[:32]))  # its log
            self.worker: Worker = executor.start(held.enter_context(self.log.open("w")))
            self._held = held.pop_all()
        self._reader: threading.Thread | None = None

    def begin(self, job: Assignment, events: EventQueue) -> None:
        """Send the worker its job. From now on what it says goes to `events`."""
        self.worker.send(job.on(self.device).model_dump_json())
        self._reader = threading.Thread(target=self._read, args=(events,), daemon=True)
        self._reader.start()

    def _read(self, events: EventQueue) -> None:
        try:
            for line in self.worker.lines():
                with contextlib.suppress(ValueError):  # its worker was killed in the middle of it
                    events.put((self, json.loads(line)))
            events.put((self, None))
        except BaseException as fault:  # noqa: BLE001  raised again where the run waits
            events.put((self, fault))

    def close(self) -> None:
        """Let the worker, which has said its last or was killed, end, and take what is left of it along."""
        with self._held:
            if self._reader:
                self._reader.join(JOIN_S)
            self.worker.close()
