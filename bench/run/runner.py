"""Execute a plan: what has no record yet, one process an artifact; runs on one results folder share the work."""

from __future__ import annotations

import contextlib
import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bench.plan.artifact import Measurement
from bench.plan.estimate import estimate_seconds
from bench.plan.plan import Plan
from bench.results.record import DONE, Record
from bench.results.store import Store
from bench.run.descendants import end_adopted
from bench.run.disk import ResultsFolder, RunStopped, full_disk_stops
from bench.run.forecast import Forecast, Pace
from bench.run.forked import SERVER_GONE
from bench.run.new_record import failed_record
from bench.run.processes import WorkerProcesses, list_imports
from bench.run.progress import ProgressDisplay
from bench.run.worker import Assignment
from bench.system.cache import cache_dir, in_use

STOP_S = 3.0
"""For a worker that is asked to end."""
CHECKPOINT_S = 60.0
"""For one whose artifact is trained: it saves its state first."""


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
    queue: deque[list[Measurement]] = deque()
    known = 0
    for measurements in plan.artifacts().values():
        missing = [m for m in measurements if not _done(store, m)]
        known += len(measurements) - len(missing)
        if missing:
            queue.append(missing)
    display.begin(len(plan.measurements), known)
    processes = WorkerProcesses(len(queue), list_imports([m for missing in queue for m in missing]))
    forecast = Forecast(
        {missing[0].artifact.key: estimate_seconds(missing) for missing in queue},
        are_seconds=all(missing[0].artifact.device == "cpu" for missing in queue),
    )
    busy_in_a_row = 0
    with contextlib.closing(processes):
        while queue:
            measurements = queue.popleft()
            wait = busy_in_a_row > len(queue)  # other runs hold all that is left
            artifact = measurements[0].artifact
            display.artifact(artifact.label, wait, forecast.seconds_left())
            forecast.start(artifact.key)
            before = summary.tried.total()
            folder.require()
            with in_use(artifact.key[:32]):  # its log
                ran = _run(measurements, store, folder, processes, display, forecast, wait, summary)
            if ran:
                forecast.end(measured=summary.tried.total() > before)
                busy_in_a_row = 0
            else:
                forecast.leave()
                busy_in_a_row += 1
                queue.append(measurements)
    folder.require()
    for measurement in plan.measurements:
        if (record := store.get(measurement.key)) is not None:
            summary.records.append(record)
    summary.moved = store.moved
    return summary


def _done(store: Store, measurement: Measurement) -> bool:
    record = store.get(measurement.key)
    return record is not None and record.status in DONE


def _run(
    measurements: list[Measurement],
    store: Store,
    folder: ResultsFolder,
    processes: WorkerProcesses,
    display: ProgressDisplay,
    forecast: Forecast,
    wait: bool,
    summary: Summary,
) -> bool:
    """One artifact in its own process; False if another run holds it."""
    artifact = measurements[0].artifact
    log = cache_dir() / "logs" / f"{artifact.key[:32]}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    missing = {m.key: m for m in measurements}
    pace = Pace()
    with log.open("w") as stderr:
        worker = processes.start(stderr)
        if processes.problem:
            display.note(f"workers start slower from here on: {processes.problem}")
            processes.problem = ""
        try:
            job = Assignment(measurements=measurements, results=store.root.resolve(), wait=wait)
            worker.send(job.model_dump_json())
            for event in _events(worker.lines()):
                if event["event"] == "busy":
                    return False
                if event["event"] == "fatal":
                    raise RunStopped(event["reason"])
                if event["event"] == "measurement":
                    folder.require()
                    measurement = missing.pop(event["key"])
                    summary.tried[event["status"]] += not event.get("known", False)
                    display.measurement(measurement.label, event["status"], event.get("reason", ""))
                elif event["event"] == "imported":
                    forecast.start(artifact.key)
                    display.enter("", "loading", forecast.seconds_left())
                elif event["event"] == "state":
                    display.enter(event["phase"], event["state"], forecast.seconds_left())
                elif event["event"] == "progress":
                    phase, done, total = event["phase"], event["done"], event["total"]
                    forecast.advance(pace.advance(phase, done, total))
                    display.progress(phase, done, total, event["figures"], forecast.seconds_left())
            code = worker.wait()
        except (KeyboardInterrupt, SystemExit):
            if artifact.training:
                display.note("stopping after a checkpoint of the training; a second signal stops at once")
            worker.stop(CHECKPOINT_S if artifact.training else STOP_S)
            raise
        except BaseException:
            worker.kill()
            raise
        finally:
            worker.close()
            end_adopted(spare=processes.own)  # one of them may have the worker's lock
    if missing:
        folder.require()
    for measurement in missing.values():
        if (status := _record_death(store, measurement, code, log)) is not None:
            summary.tried[status] += 1
        display.measurement(measurement.label, "failed", _cause(code))
    return True


def _record_death(store: Store, measurement: Measurement, code: int | None, log: Path) -> str | None:
    """A failed row for a measurement whose worker died, unless another run has taken it up since. Returns its status."""
    try:
        with FileLock(store.lock(measurement.artifact.key), timeout=0):
            if not _done(store, measurement):
                record = failed_record(measurement, WorkerEnded(f"{_cause(code)}; its log is {log}"))
                record.traceback = log.read_text(errors="replace")[-20_000:]
                store.write(record)
                return record.status
    except Timeout:
        pass
    return None


def _cause(code: int | None) -> str:
    if code is None or code == SERVER_GONE:
        return "the process and its fork server ended; was one of them killed?"
    if code == -9:
        return "the process was killed (signal 9), as the system does when memory runs out"
    return f"the process ended on signal {-code}" if code < 0 else f"the process ended with code {code}"


def _events(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        with contextlib.suppress(ValueError):  # its worker was killed in the middle of it
            yield json.loads(line)
