"""The worker process, which builds, checks, measures and records one artifact.

The runner (bench.execution.runner) writes a JSON assignment to stdin and reads events as JSON lines
from stdout. The process ends when stdin closes. A crash costs this artifact only.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel

from bench.execution import signals
from bench.execution.descendants import adopt_orphans, end_descendants, end_with_stdin
from bench.execution.disk import describe_full_disk
from bench.execution.events import Events
from bench.execution.new_record import failed_record
from bench.execution.processes import list_imports
from bench.execution.source_guard import require_planned
from bench.planning.artifact import Measurement
from bench.results.record import Record
from bench.results.store import Store, is_disk_full, wait_for_folder
from bench.system.cache import in_use
from bench.system.interpreter import EXIT_S, end_within
from methods.workshop.training.interrupt import Stopped, stop_request


class Assignment(BaseModel):
    """Measurements of one artifact, and where to record them."""

    measurements: list[Measurement]
    results: Path
    wait: bool
    """True to wait for another run that holds the artifact, False to report that it is busy."""

    def on(self, device: str) -> Assignment:
        """Return the assignment for one of several devices."""
        if device == self.measurements[0].artifact.device:
            return self
        placed = {"artifact": self.measurements[0].artifact.model_copy(update={"device": device})}
        return self.model_copy(
            update={"measurements": [m.model_copy(update=placed) for m in self.measurements]}
        )


def main() -> None:
    signals.obey_runner()
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of a library must not look like an event
    os.register_at_fork(after_in_child=lambda: _cut(channel.fileno()))
    adopt_orphans()
    code = 1
    try:
        end_with_stdin()
        job = Assignment.model_validate_json(sys.stdin.readline())
        work(job, Events(channel))
        code = 0
    except Stopped:
        code = 128 + stop_request.signal
        sys.exit(code)
    finally:
        _leave(code)


def _cut(channel: int) -> None:
    """Cut the channel to the runner in a process that a method forks, and stop the wait for
    checkpoints."""
    signals.reset(signal.SIGTERM)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, channel)
    os.close(nowhere)


def _leave(code: int) -> None:
    """End processes that methods left behind, and after a timeout also threads and exit
    functions."""
    end_descendants()
    end_within(EXIT_S, code)


def work(job: Assignment, events: Events) -> None:
    """Take the measurements that have no record yet."""
    try:
        _work(job, events)
    except BaseException as fault:  # torch's fault of a checkpoint is no Exception
        if not is_disk_full(fault):
            raise
        events.emit("fatal", reason=describe_full_disk(fault, job.results))


def _work(job: Assignment, events: Events) -> None:
    wait_for_folder(job.results)  # the runner made it
    store = Store(job.results)
    artifact = job.measurements[0].artifact
    lock = FileLock(store.lock(artifact.key))
    try:
        held = lock.acquire(timeout=-1 if job.wait else 0)
    except Timeout:
        events.emit("busy")
        return
    with held, in_use(*artifact.cache_names):
        missing = []
        for measurement in job.measurements:  # another run may have measured them meanwhile
            known = store.finished(measurement.key)
            if known:
                events.emit("measurement", key=measurement.key, status=known.status, known=True)
            else:
                missing.append(measurement)
        if missing:
            # Forked workers have the libraries already, and their time is not counted for the
            # artifact.
            for name in list_imports(missing):
                with contextlib.suppress(Exception):  # raised again later, and recorded
                    importlib.import_module(name)
            events.emit("imported")
            _fill(missing, store, events)


def _fill(measurements: list[Measurement], store: Store, events: Events) -> None:
    from bench.execution.build import Builder
    from bench.execution.measure import group, measure

    artifact = measurements[0].artifact
    try:
        require_planned(artifact, measurements)
        builder = Builder(artifact, events)
        built = builder.build(artifact)
    except Exception as fault:  # a method may raise anything; only this artifact fails
        if is_disk_full(fault):
            raise
        for measurement in measurements:
            _record(store, events, failed_record(measurement, fault))
        return
    for together in group(measurements):
        events.phase = ", ".join(m.label for m in together)
        events.enter("loading")
        for record, items in measure(together, built, builder.workspace):
            _record(store, events, record, items)


def _record(store: Store, events: Events, record: Record, items: Any = ()) -> None:
    store.write(record, items)
    events.emit("measurement", key=record.key, status=record.status, reason=record.reason)


if __name__ == "__main__":
    main()
