"""Execute a plan: measure what has no record yet, with one process for each artifact.

Runs on one results folder share the work.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psutil
from filelock import FileLock, Timeout

from bench.execution import progress
from bench.execution.artifact_task import WAKE_S, ArtifactTask, EventQueue, next_event
from bench.execution.descendants import end_adopted
from bench.execution.disk import ResultsFolder, RunStopped, full_disk_stops
from bench.execution.executor import STALLED, Executor, describe_end
from bench.execution.forecast import Forecast
from bench.execution.journal import Journal
from bench.execution.listener import Listeners, RunListener, RunningArtifact, TimeLeft
from bench.execution.new_record import failed_record
from bench.execution.processes import WorkerProcesses, list_imports
from bench.execution.ray_executor import RayExecutor, import_ray
from bench.execution.tracking import Tracking
from bench.execution.worker import Assignment
from bench.execution.worker_process import CHECKPOINT_S, read_end
from bench.planning.artifact import Measurement, Plan
from bench.planning.estimate import estimate_seconds, fit_model
from bench.planning.memory import estimate_bytes
from bench.planning.plan import make_plan
from bench.planning.refusal import require_memory
from bench.planning.resolve import AUTO
from bench.planning.spec import make_spec
from bench.results.record import DONE, Record
from bench.results.reproduce import settings
from bench.results.store import Store
from bench.system.cache import in_use, is_built
from methods.errors import UserError

STOP_S = 3.0
"""Seconds that a worker without a training has to end after a signal."""
MAX_ATTEMPTS = 3
"""Attempts when the machine, not the artifact, killed the worker."""


class WorkerEnded(Exception):
    """A worker ended without a result."""


@dataclass
class Summary(RunListener):
    records: list[Record] = field(default_factory=list)
    tried: Counter[str] = field(default_factory=Counter)
    """Number of measurements that this run tried, by status."""
    moved: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return sum(r.status == "failed" for r in self.records)

    def take(self, running: RunningArtifact, event: Mapping[str, Any], left: TimeLeft) -> None:
        if event["event"] == "measurement" and not event.get("known"):
            self.tried[event["status"]] += 1


def execute(plan: Plan, store: Store, listeners: Sequence[RunListener]) -> Summary:
    """Fill in what is missing, then read every measurement's record.

    Raises:
        RunStopped: the disk is full, or the results folder vanished. What was recorded stays.
    """
    try:
        with full_disk_stops(store.root), contextlib.closing(ResultsFolder(store.root)) as folder:
            return _execute(plan, store, folder, listeners)
    finally:
        end_adopted()


def measure_again(record: Record, root: Path) -> Record:
    """Repeat a record's measurement into an empty results folder. Raise UserError if this version cannot."""
    plan = make_plan(make_spec(settings(record) | {"results": root}))
    measurements = tuple(m for m in plan.measurements if m.identity.key() == record.identity.key())
    if not measurements:
        raise UserError(f"record {record.short_key} cannot be measured by this version any more: run bench run")
    with in_use():
        summary = execute(Plan(plan.spec, measurements, ()), Store(root), [progress.display_for(sys.stderr)])
    if len(summary.records) != 1:
        raise UserError(f"record {record.short_key} gave {len(summary.records)} records: run bench run")
    return summary.records[0]


def _execute(plan: Plan, store: Store, folder: ResultsFolder, listeners: Sequence[RunListener]) -> Summary:
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
        import_ray()  # a missing package is an error before the first progress line
    with Listeners(summary, *listeners) as heard:
        journal = heard.add(Journal(store.root, plan.spec.executor, heard.note))
        if missing and plan.spec.log_to:
            heard.add(Tracking(plan.spec.log_to, journal.status.name, store.get, heard.note))
        heard.begin(len(plan.measurements), known)
        with contextlib.closing(Sweep(plan, missing, store, folder, heard)) as sweep:
            sweep.run()
    folder.require()
    for measurement in plan.measurements:
        if (record := store.get(measurement.key)) is not None:
            summary.records.append(record)
    summary.moved = store.damaged
    return summary


def _done(store: Store, measurement: Measurement) -> bool:
    record = store.get(measurement.key)
    return record is not None and record.status in DONE


class Sweep:
    """Hands out artifacts, several at a time, and takes back how each ended."""

    def __init__(
        self,
        plan: Plan,
        missing: Sequence[list[Measurement]],
        store: Store,
        folder: ResultsFolder,
        listener: RunListener,
    ) -> None:
        """missing: the measurements of each artifact that have no record."""
        self._store, self._folder, self._listener = store, folder, listener
        model = fit_model(plan) if missing else None
        seconds = estimate_seconds(missing, model)
        self._executor: Executor
        if plan.spec.executor == "ray" and missing:
            self._executor = RayExecutor(plan, (some[0].artifact for some in missing), store)
        else:
            modules = list_imports(m for some in missing for m in some)
            self._executor = WorkerProcesses(len(missing), modules, plan.jobs)
        if self._executor.jobs > 1:  # the longest first, so that none is left alone at the end
            missing = sorted(missing, key=lambda measurements: -seconds[measurements[0].artifact.key])
        self._queue = deque(missing)
        self._attempts: Counter[str] = Counter()
        self._nodes: set[str] = set()
        self._busy_in_a_row = 0
        self._stall_timeout, self._looked = plan.spec.stall_timeout, time.monotonic()
        self._at_work: list[ArtifactTask] = []
        self._events: EventQueue = SimpleQueue()
        self._devices = [device for device, _ in zip(cycle(plan.devices), range(plan.jobs), strict=False)]
        self._memory = psutil.virtual_memory().available if plan.spec.jobs == AUTO else None
        are_seconds = all(measurements[0].artifact.device == "cpu" for measurements in missing)
        self._forecast = Forecast(seconds, are_seconds=are_seconds, jobs=self._executor.jobs)

    def run(self) -> None:
        """Measure everything that is missing.

        Raises:
            RunStopped: results can no longer be saved.
            KeyboardInterrupt, SystemExit: after a signal. Every worker has ended, trainings after a checkpoint.
        """
        try:
            while self._queue or self._at_work:
                self._bring_forward()
                while self._queue and self._has_room(self._queue[0]):
                    self._start(self._queue.popleft())
                    self._bring_forward()
                self._end_stalled()
                if (arrived := next_event(self._events)) is None:
                    continue
                task, event = arrived
                if isinstance(event, BaseException):
                    raise event
                if event is None:
                    self._end(task)
                else:
                    self._take(task, event)
        except (KeyboardInterrupt, SystemExit):
            if any(task.artifact.training for task in self._at_work):
                self._listener.note("stopping after a checkpoint of the training; a second signal stops at once")
            self._stop()
            raise

    def _end_stalled(self) -> None:
        """Kill workers without progress. Time in which this process was stopped does not count."""
        now = time.monotonic()
        seconds, self._looked = min(now - self._looked, 2 * WAKE_S), now
        for task in self._at_work:
            task.note_time(seconds, self._stall_timeout)

    def _bring_forward(self) -> None:
        """Move an artifact to the front of the queue that need not wait for a stage in the making."""
        if not self._at_work or len(self._at_work) >= self._executor.jobs:
            return  # the search below hashes keys and looks at files, and this runs after every event
        begun = {name for task in self._at_work for name in task.artifact.cache_names if not is_built(name)}
        for at, measurements in enumerate(self._queue):
            if begun.isdisjoint(measurements[0].artifact.cache_names):
                del self._queue[at]
                self._queue.appendleft(measurements)
                return

    def _has_room(self, measurements: list[Measurement]) -> bool:
        """Return whether the number of jobs, and the memory if jobs are automatic, allow one more artifact."""
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
        self._executor.close()

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
        task.begin(Assignment(measurements=measurements, results=self._store.root.resolve(), wait=waits), self._events)

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
                del task.missing[event["key"]]
                task.has_measured |= not event.get("known", False)
        self._forecast.take(task, event, TimeLeft())
        self._listener.take(task, event, self._forecast.left(task))

    def _meet(self, node: str, shares_results: bool) -> None:
        """Say once for each node how its records come here."""
        if node not in self._nodes:
            self._nodes.add(node)
            how = (
                "writes into the results folder" if shares_results else "does not see the results folder: sends records"
            )
            self._listener.note(f"node {node} {how}")

    def _end(self, task: ArtifactTask) -> None:
        code = None if task.is_busy else task.worker.wait()
        code = STALLED if task.is_stalled else code
        self._close(task)
        key = task.artifact.key
        left = list(task.missing.values())
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
        for measurement in left:
            try:
                status = _record_death(self._store, measurement, code, task.log)
            except Timeout:  # another run waited for the lock, and measures it now
                self._queue.append(list(task.missing.values()))
                self._tell_end(task, cause, None)
                return
            event = {"event": "measurement", "key": measurement.key, "status": status}
            self._take(task, event | ({"reason": describe_end(code)} if status == "failed" else {"known": True}))
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
            patience = CHECKPOINT_S if task.artifact.training else STOP_S
            task.worker.stop(max(0.0, begun + patience - time.monotonic()) if task.has_begun else 0.0)

    def _close(self, task: ArtifactTask) -> None:
        self._at_work.remove(task)
        self._devices.append(task.device)
        try:
            task.close()
        finally:  # a process that a method left behind is now our child, and may be under the lock of a spared worker
            own = (*self._executor.own, *self._listener.own)
            end_adopted(spare=(*own, *(other.worker.pid for other in self._at_work)))


def _record_death(store: Store, measurement: Measurement, code: int | None, log: Path) -> str:
    """Record a failure for a measurement whose worker died, unless another run has measured it. Return the status.

    Raises:
        Timeout: another run measures it now.
    """
    with FileLock(store.lock(measurement.artifact.key), timeout=0):
        known = store.get(measurement.key)
        if known is not None and known.status in DONE:
            return known.status
        record = failed_record(measurement, WorkerEnded(f"{describe_end(code)}; its log is {log}"))
        record.traceback = read_end(log)
        store.write(record)
        return record.status
