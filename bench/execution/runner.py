"""Execute a plan: what has no record yet, one process an artifact, several at a time where the spec says so.

Runs on one results folder share the work.
"""

from __future__ import annotations

import contextlib
import signal
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psutil
from filelock import FileLock, Timeout

from bench.execution.artifact_task import ArtifactTask, EventQueue, next_event
from bench.execution.descendants import end_adopted
from bench.execution.disk import ResultsFolder, RunStopped, full_disk_stops
from bench.execution.executor import Executor, describe_end
from bench.execution.forecast import Forecast
from bench.execution.journal import Journal, keeping_journal
from bench.execution.new_record import failed_record
from bench.execution.processes import WorkerProcesses, list_imports
from bench.execution.progress import ProgressDisplay
from bench.execution.ray_executor import RayExecutor, import_ray
from bench.execution.tracking import Tracking
from bench.execution.worker import Assignment
from bench.execution.worker_process import CHECKPOINT_S, read_end
from bench.planning.artifact import Measurement
from bench.planning.estimate import estimate_seconds, fit_model
from bench.planning.memory import estimate_bytes
from bench.planning.plan import Plan
from bench.planning.refusal import require_memory
from bench.planning.side_by_side import AUTO
from bench.results.record import DONE, Record
from bench.results.store import Store
from bench.system.cache import is_built

STOP_S = 3.0
"""For a worker that is asked to end and does not train."""
MAX_TRIES = 3
"""Of an artifact whose machine is to blame for its end: it may kill each that it is made on."""


class WorkerEnded(Exception):
    """A worker ended without a result."""


@dataclass
class Summary:
    """How a run ended."""

    records: list[Record] = field(default_factory=list)
    tried: Counter[str] = field(default_factory=Counter)
    """Measurements that this run has tried, by what came of them."""
    moved: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return sum(r.status == "failed" for r in self.records)


def execute(plan: Plan, store: Store, display: ProgressDisplay) -> Summary:
    """Fill in what is missing, then read every measurement's record.

    Raises:
        RunStopped: the disk is full, or the results folder vanished. What was recorded stays.
    """
    try:
        with full_disk_stops(store.root), contextlib.closing(ResultsFolder(store.root)) as folder:
            return _execute(plan, store, folder, display)
    finally:
        display.end()
        end_adopted()


def _execute(plan: Plan, store: Store, folder: ResultsFolder, display: ProgressDisplay) -> Summary:
    summary = Summary()
    missing: list[list[Measurement]] = []
    known = 0
    for measurements in plan.artifacts().values():
        left = [m for m in measurements if not _done(store, m)]
        known += len(measurements) - len(left)
        if left:
            missing.append(left)
    require_memory(plan, missing)
    if plan.spec.executor == "ray" and missing:
        import_ray()  # before anything is said to begin
    display.begin(len(plan.measurements), known)
    with keeping_journal(store.root, plan.spec.executor, display.note) as journal:
        journal.begin(len(plan.measurements), known)
        names = plan.spec.log_to if missing else ()
        with (
            Tracking(names, journal.status.name, store.get, display.note) as tracking,
            contextlib.closing(Sweep(plan, missing, store, folder, display, summary, journal, tracking)) as sweep,
        ):
            sweep.run()
    folder.require()
    for measurement in plan.measurements:
        if (record := store.get(measurement.key)) is not None:
            summary.records.append(record)
    summary.moved = store.moved
    return summary


def _done(store: Store, measurement: Measurement) -> bool:
    record = store.get(measurement.key)
    return record is not None and record.status in DONE


class Sweep:
    """Hand out artifacts, `jobs` at a time, and take back how each ended."""

    def __init__(
        self,
        plan: Plan,
        missing: Sequence[list[Measurement]],
        store: Store,
        folder: ResultsFolder,
        display: ProgressDisplay,
        summary: Summary,
        journal: Journal,
        tracking: Tracking,
    ) -> None:
        """missing: the measurements of each artifact that have no record."""
        self._store, self._folder, self._display, self._summary = store, folder, display, summary
        model = fit_model(plan) if missing else None
        seconds = estimate_seconds(missing, model)
        self._executor = make_executor(plan, missing, store)
        if self._executor.jobs > 1:  # the longest first, so that none is left alone at the end
            missing = sorted(missing, key=lambda measurements: -seconds[measurements[0].artifact.key])
        self._journal, self._tracking = journal, tracking
        self._queue = deque(missing)
        self._tries: Counter[str] = Counter()
        self._nodes: set[str] = set()
        self._busy_in_a_row = 0
        self._at_work: list[ArtifactTask] = []
        self._events: EventQueue = SimpleQueue()
        self._devices = [device for device, _ in zip(cycle(plan.devices), range(plan.jobs), strict=False)]
        self._memory = psutil.virtual_memory().available if plan.spec.jobs == AUTO else None
        are_seconds = all(measurements[0].artifact.device == "cpu" for measurements in missing)
        self._forecast = Forecast(seconds, are_seconds=are_seconds, jobs=self._executor.jobs)

    def run(self) -> None:
        """
        Raises:
            RunStopped: results can no longer be saved.
            KeyboardInterrupt, SystemExit: of a signal; every worker has ended, trainings after a checkpoint.
        """
        try:
            while self._queue or self._at_work:
                self._bring_forward()
                while self._queue and self._has_room(self._queue[0]):
                    self._start(self._queue.popleft())
                    self._bring_forward()
                task, event = next_event(self._events)
                if isinstance(event, BaseException):
                    raise event
                if event is None:
                    self._end(task)
                else:
                    self._take(task, event)
        except (KeyboardInterrupt, SystemExit):
            if any(task.artifact.training for task in self._at_work):
                self._display.note("stopping after a checkpoint of the training; a second signal stops at once")
            self._stop()
            raise

    def _bring_forward(self) -> None:
        """Put first an artifact that need not wait for a stage which another is making, if there is one."""
        if not self._at_work or len(self._at_work) >= self._executor.jobs:
            return  # this is asked after every event, and what follows looks at keys and files
        begun = {name for task in self._at_work for name in task.artifact.cache_names if not is_built(name)}
        for at, measurements in enumerate(self._queue):
            if begun.isdisjoint(measurements[0].artifact.cache_names):
                del self._queue[at]
                self._queue.appendleft(measurements)
                return

    def _has_room(self, measurements: list[Measurement]) -> bool:
        """Whether one more may be handed out: of number, and of memory where the number was to go by it."""
        if not self._at_work or len(self._at_work) >= self._executor.jobs:
            return not self._at_work
        together = (measurements[0].artifact, *(task.artifact for task in self._at_work))
        return self._memory is None or sum(map(estimate_bytes, together)) <= self._memory

    def close(self) -> None:
        """End what is still at work, after a fault of this process."""
        for task in self._at_work:
            task.worker.kill()
        while self._at_work:
            self._close(self._at_work[-1])
        self._executor.close()

    def _start(self, measurements: list[Measurement]) -> None:
        wait = self._busy_in_a_row > len(self._queue)  # other runs hold all that is left
        artifact = measurements[0].artifact
        label = artifact.label
        if any(task.label == label for task in self._at_work):
            label += f" {artifact.pattern}"
        self._folder.require()
        device = self._devices.pop(0) if self._devices else artifact.device
        task = ArtifactTask(measurements, label, self._executor, device)
        self._at_work.append(task)
        if task.has_begun:
            self._begin(task, wait)
        if self._executor.problem:
            self._display.note(self._executor.problem)
            self._executor.problem = ""
        task.begin(Assignment(measurements=measurements, results=self._store.root.resolve(), wait=wait), self._events)

    def _begin(self, task: ArtifactTask, wait: bool) -> None:
        self._journal.start(task.artifact, task.label, task.device)
        self._tracking.start(task.measurements, task.label)
        self._display.artifact(task.label, wait, self._forecast.seconds_left())
        self._forecast.start(task.artifact.key)

    def _take(self, task: ArtifactTask, event: dict[str, Any]) -> None:
        display, forecast, label = self._display, self._forecast, task.label
        phase_left = None
        match event["event"]:
            case "begun":
                task.has_begun = True
                self._begin(task, event["wait"])
            case "node":
                self._meet(event["name"], event["shares_results"])
            case "busy":
                task.is_busy = True
            case "fatal":
                raise RunStopped(event["reason"])
            case "measurement":
                self._folder.require()
                measurement = task.missing.pop(event["key"])
                if not event.get("known", False):
                    self._summary.tried[event["status"]] += 1
                    task.has_measured = True
                display.measurement(label, measurement.label, event["status"], event.get("reason", ""))
            case "imported":
                forecast.start(task.artifact.key)
                display.enter(label, "", "loading", forecast.seconds_left())
            case "state":
                display.enter(label, event["phase"], event["state"], forecast.seconds_left())
            case "progress":
                phase, done, total = event["phase"], event["done"], event["total"]
                phase_left = task.pace.advance(phase, done, total)
                forecast.advance(task.artifact.key, phase_left)
                display.progress(label, phase, done, total, event["figures"], forecast.seconds_left())
        self._journal.take(task.artifact.key, event, forecast.seconds_left(), phase_left)
        self._tracking.take(task.artifact.key, event)

    def _meet(self, node: str, shares_results: bool) -> None:
        """Say once for each node how its records come here."""
        if node not in self._nodes:
            self._nodes.add(node)
            how = (
                "writes into the results folder" if shares_results else "does not see the results folder: sends records"
            )
            self._display.note(f"node {node} {how}")

    def _end(self, task: ArtifactTask) -> None:
        """A worker has said its last."""
        code = None if task.is_busy else task.worker.wait()
        self._close(task)
        self._display.leave(task.label)
        key = task.artifact.key
        cause = "another run has it" if task.is_busy else describe_end(code) if code else ""
        self._journal.end(key, cause)
        self._tracking.end(key, cause)
        if task.is_busy:
            self._forecast.leave(key)
            self._busy_in_a_row += 1
            self._queue.append(task.measurements)
            return
        self._busy_in_a_row = 0
        if task.missing:
            self._folder.require()
            self._tries[key] += 1
            if self._executor.reruns(code) and self._tries[key] < MAX_TRIES:
                self._display.note(f"{task.label}: {describe_end(code)}; it is made again elsewhere")
                self._forecast.leave(key)
                self._queue.appendleft([m for m in task.measurements if m.key in task.missing])
                return
        for measurement in task.missing.values():
            try:
                status = _record_death(self._store, measurement, code, task.log)
            except Timeout:  # another run waited for it, and makes it now
                self._forecast.leave(key)
                self._queue.append([m for m in task.measurements if m.key in task.missing])
                return
            event: dict[str, Any] = {"event": "measurement", "key": measurement.key, "status": status}
            if status == "failed":
                event["reason"] = describe_end(code)
                self._summary.tried[status] += 1
                task.has_measured = True
            else:
                event["known"] = True
            self._display.measurement(task.label, measurement.label, status, event.get("reason", ""))
            self._journal.take(key, event, self._forecast.seconds_left(), None)
        self._forecast.end(key, measured=task.has_measured)

    def _stop(self) -> None:
        """Ask every worker to end: all at once, since a training saves its state first."""
        for task in self._at_work:
            task.worker.send_signal(signal.SIGTERM)
        for task in self._at_work:
            patience = CHECKPOINT_S if task.artifact.training else STOP_S
            task.worker.stop(patience if task.has_begun else 0.0)

    def _close(self, task: ArtifactTask) -> None:
        self._at_work.remove(task)
        self._devices.append(task.device)
        try:
            task.close()
        finally:  # what a method left behind is this process's child by now; one of those spared may have the worker's lock
            own = (*self._executor.own, *self._tracking.own)
            end_adopted(spare=(*own, *(other.worker.pid for other in self._at_work)))


def make_executor(plan: Plan, missing: Sequence[list[Measurement]], store: Store) -> Executor:
    """What makes the artifacts of a plan, as its spec says."""
    if plan.spec.executor == "ray" and missing:
        return RayExecutor(plan, (measurements[0].artifact for measurements in missing), store)
    return WorkerProcesses(len(missing), list_imports([m for some in missing for m in some]), plan.jobs)


def _record_death(store: Store, measurement: Measurement, code: int | None, log: Path) -> str:
    """A failed row for a measurement whose worker died, unless another run has done it since. Returns the row's status.

    Raises:
        Timeout: another run has taken it up.
    """
    with FileLock(store.lock(measurement.artifact.key), timeout=0):
        known = store.get(measurement.key)
        if known is not None and known.status in DONE:
            return known.status
        record = failed_record(measurement, WorkerEnded(f"{describe_end(code)}; its log is {log}"))
        record.traceback = read_end(log)
        store.write(record)
        return record.status
