"""Hand out the artifacts of a plan to workers, several at a time, and take back how each ended."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psutil
from filelock import FileLock, Timeout

from bench.catalog.entries import LOCAL
from bench.execution.artifact_task import WAKE_S, ArtifactTask, EventQueue, next_event
from bench.execution.descendants import end_adopted
from bench.execution.disk import NEARLY_FULL, ResultsFolder, RunStopped, has_room
from bench.execution.executor import FORGED, OVER_MEMORY, Executor, describe_end
from bench.execution.forecast import find_forecasts
from bench.execution.listener import RunListener, TimeLeft
from bench.execution.memory_limit import MemoryLimit
from bench.execution.new_record import failed_record
from bench.execution.worker import Assignment
from bench.execution.worker_process import checkpoint_seconds, read_end
from bench.planning.artifact import Measurement, Plan
from bench.planning.memory import estimate_bytes, estimate_disk_bytes
from bench.planning.resolve import AUTO
from bench.results.record import Record
from bench.results.store import Store
from bench.system.cache import cache_dir, is_built

STOP_S = 2.0
"""Seconds that a worker without a training has to end after a signal."""
MAX_ATTEMPTS = 3
"""Attempts when the machine, not the artifact, killed the worker."""


class WorkerEnded(Exception):
    """A worker ended without a result."""


class Sweep:
    """The artifacts of a run: those that wait, and those at work."""

    def __init__(
        self,
        plan: Plan,
        missing: Sequence[list[Measurement]],
        store: Store,
        folder: ResultsFolder,
        listener: RunListener,
        executor: Executor,
    ) -> None:
        """missing: the measurements of each artifact that have no record."""
        self._store, self._folder, self._listener = store, folder, listener
        self._executor = executor
        self._forecast = find_forecasts().of_run(plan, missing, executor.jobs)
        if executor.jobs > 1:  # the longest first, so that none is left alone at the end
            missing = sorted(missing, key=self._forecast.seconds, reverse=True)
        self._queue = deque(missing)
        self._attempts: Counter[str] = Counter()
        self._nodes: set[str] = set()
        self._busy_in_a_row = 0
        self._stall_timeout, self._looked = plan.spec.stall_timeout, time.monotonic()
        self._at_work: list[ArtifactTask] = []
        self._events: EventQueue = SimpleQueue()
        self._devices = [
            device for device, _ in zip(cycle(plan.devices), range(plan.jobs), strict=False)
        ]
        self._limit = MemoryLimit(plan.spec.memory_share)
        self._memory: int | None = None
        if plan.spec.jobs == AUTO and plan.spec.executor == LOCAL:
            self._memory = psutil.virtual_memory().available

    def run(self) -> None:
        """Measure everything that is missing.

        Raises:
            RunStopped: results can no longer be saved.
            KeyboardInterrupt, SystemExit: after a signal. Every worker has ended, trainings after a
                checkpoint.
        """
        if self._forecast.total:
            self._listener.note(self._forecast.total)
        try:
            while self._queue or self._at_work:
                self._bring_forward()
                while self._queue and self._has_room(self._queue[0]):
                    self._start(self._queue.popleft())
                    self._bring_forward()
                self._end_stalled()
                arrived = next_event(self._events)
                if arrived is None:
                    continue
                task, event = arrived
                if isinstance(event, BaseException):
                    raise event
                if event is None:
                    self._end(task)
                elif self._is_plausible(task, event):
                    task.events += 1
                    self._take(task, event)
                else:
                    task.kill(FORGED)
        except (KeyboardInterrupt, SystemExit):
            to_save = [checkpoint_seconds(task.artifact) for task in self._at_work]
            seconds = max(to_save, default=0.0)
            if seconds:
                self._listener.note(
                    f"stopping after a checkpoint of the training, in {seconds:.0f} seconds at most"
                )
            self._stop()
            raise

    def _end_stalled(self) -> None:
        """Kill workers without progress, and the largest if all take too much memory. Time in which
        this process was stopped does not count."""
        now = time.monotonic()
        seconds, self._looked = min(now - self._looked, 2 * WAKE_S), now
        for task in self._at_work:
            if task.note_time(seconds, self._stall_timeout):
                left = self._stall_timeout - task.idle_s
                self._listener.note(
                    f"{task.label}: its process is stopped and would be killed in {left:.0f} "
                    f"seconds: continue it with kill -CONT {task.worker.pid}"
                )
        largest = self._limit.find_largest({task.worker.pid for task in self._at_work})
        for task in self._at_work:
            if largest and task.worker.pid == largest:
                task.kill(OVER_MEMORY)

    def _bring_forward(self) -> None:
        """Move an artifact to the front of the queue that need not wait for a stage in the
        making."""
        if not self._at_work or len(self._at_work) >= self._executor.jobs:
            # The search below hashes keys and looks at files, and this runs after every event.
            return
        begun = {
            name
            for task in self._at_work
            for name in task.artifact.cache_names
            if not is_built(name)
        }
        for at, measurements in enumerate(self._queue):
            if begun.isdisjoint(measurements[0].artifact.cache_names):
                del self._queue[at]
                self._queue.appendleft(measurements)
                return

    def _has_room(self, measurements: list[Measurement]) -> bool:
        """Return whether the number of jobs, and the memory if jobs are automatic, allow one more
        artifact."""
        if not self._at_work or len(self._at_work) >= self._executor.jobs:
            return not self._at_work
        together = (measurements[0].artifact, *(task.artifact for task in self._at_work))
        return self._memory is None or sum(map(estimate_bytes, together)) <= self._memory

    def close(self) -> None:
        """Kill the workers that are left after a fault of this process."""
        for task in self._at_work:
            task.worker.kill()
        while self._at_work:
            self._close(self._at_work[-1])

    def _start(self, measurements: list[Measurement]) -> None:
        waits = self._busy_in_a_row > len(self._queue)  # other runs hold everything that is left
        artifact = measurements[0].artifact
        label = artifact.label
        if any(task.label == label for task in self._at_work):
            label += f" {artifact.pattern}"
        self._folder.require()
        device = self._devices.pop(0) if self._devices else artifact.device
        task = ArtifactTask(measurements, label, self._executor, device)
        task.waits = task.may_wait = waits
        self._at_work.append(task)
        if task.has_begun:
            self._tell_start(task)
        if self._executor.problem:
            self._listener.note(self._executor.problem)
            self._executor.problem = ""
        task.begin(
            Assignment(measurements=measurements, results=self._store.root.resolve(), wait=waits),
            self._events,
        )

    def _tell_start(self, task: ArtifactTask) -> None:
        self._forecast.start(task, TimeLeft())
        self._listener.start(task, self._forecast.left(task))

    def _take(self, task: ArtifactTask, event: dict[str, Any]) -> None:
        task.note_progress(event)
        match event["event"]:
            case "begun":
                task.has_begun, task.waits = True, event["wait"]
                task.may_wait = task.waits
                self._tell_start(task)
            case "node":
                self._meet(event["name"], event["shares_results"])
            case "busy":
                task.is_busy = True
            case "fatal":
                raise RunStopped(event["reason"])
            case "measurement":
                self._folder.require()
                task.missing.pop(event["key"], None)
                task.has_measured |= not event.get("known", False)
        self._forecast.take(task, event, TimeLeft())
        self._listener.take(task, event, self._forecast.left(task))

    def _is_plausible(self, task: ArtifactTask, event: dict[str, Any]) -> bool:
        """Return whether an event is what a worker sends in this place."""
        if task.killed == FORGED:
            return False
        match event["event"]:
            case "begun":
                return not task.has_begun
            case "node":
                return self._executor.queues
            case "busy":
                return not task.events or self._executor.queues
            case "measurement":
                return event["key"] in task.missing
            case "fatal":
                artifact = task.artifact
                size = int(2 * estimate_disk_bytes(artifact, len(artifact.stages)))
                size = max(NEARLY_FULL, size)
                return not (has_room(self._store.root, size) and has_room(cache_dir(), size))
        return True

    def _meet(self, node: str, shares_results: bool) -> None:
        """Say once for each node how its records come here."""
        if node not in self._nodes:
            self._nodes.add(node)
            does = "does not see the results folder: sends records"
            if shares_results:
                does = "writes into the results folder"
            self._listener.note(f"node {node} {does}")

    def _end(self, task: ArtifactTask) -> None:
        code = None if task.is_busy else task.worker.wait()
        code = task.killed or code
        self._close(task)
        key = task.artifact.key
        left = list(task.missing.values())
        if not self._executor.queues:  # a shared disk may show a record late
            said = [m for m in task.measurements if m.key not in task.missing]
            without = [m for m in said if not self._store.get(m.key)]
            left += without
            code = FORGED if without else code
        if task.is_busy:
            self._busy_in_a_row += 1
            self._queue.append(task.measurements)
            self._tell_end(task, "another run has it", None)
            return
        self._busy_in_a_row = 0
        cause = describe_end(code) if code else ""
        if left:
            self._folder.require()
            self._attempts[key] += 1
            if self._executor.reruns(code) and self._attempts[key] < MAX_ATTEMPTS:
                self._listener.note(f"{task.label}: {describe_end(code)}; another attempt follows")
                self._queue.appendleft(left)
                self._tell_end(task, cause, None)
                return
        # Each listener hears of a start before it hears of measurements.
        if left and not task.has_begun:
            self._tell_start(task)
        for measurement in left:
            try:
                status = _record_death(self._store, measurement, code, task.log)
            except Timeout:  # another run waited for the lock, and measures it now
                self._queue.append(left)
                self._tell_end(task, cause, None)
                return
            event = {"event": "measurement", "key": measurement.key, "status": status}
            if status == "failed":
                self._take(task, event | {"reason": describe_end(code)})
            else:
                self._take(task, event | {"known": True})
        if not code:
            task.log.unlink(missing_ok=True)
        records = [record for m in task.measurements if (record := self._store.get(m.key))]
        self._tell_end(task, cause, records)

    def _tell_end(self, task: ArtifactTask, cause: str, records: Sequence[Record] | None) -> None:
        self._forecast.end(task, cause, records)
        self._listener.end(task, cause, records)

    def _stop(self) -> None:
        """Ask every worker to end, all at once, because a training saves its state first."""
        begun = time.monotonic()
        for task in self._at_work:
            task.worker.ask_to_end()
        for task in sorted(self._at_work, key=lambda task: task.artifact.training is not None):
            patience = 0.0
            if task.has_begun:
                deadline = begun + (checkpoint_seconds(task.artifact) or STOP_S)
                patience = max(0.0, deadline - time.monotonic())
            task.worker.stop(patience)

    def _close(self, task: ArtifactTask) -> None:
        self._at_work.remove(task)
        self._devices.append(task.device)
        try:
            task.close()
        finally:
            # A process that a method left behind is now our child, and may be under the lock of a
            # spared worker.
            workers = [other.worker.pid for other in self._at_work]
            end_adopted(spare=(*self._executor.own, *self._listener.own, *workers))


def _record_death(store: Store, measurement: Measurement, code: int | None, log: Path) -> str:
    """Record a failure for a measurement whose worker died, unless another run measured it. Return
    the status."""
    with FileLock(store.lock(measurement.artifact.key), timeout=0):
        known = store.finished(measurement.key)
        if known:
            return known.status
        record = failed_record(measurement, WorkerEnded(f"{describe_end(code)}; its log is {log}"))
        record.traceback = read_end(log)
        store.write(record)
        return record.status
