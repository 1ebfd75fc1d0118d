"""One artifact in a process of its own: build it, check it, measure it, record it.

Spoken to by bench.runner: a JSON job on the first line of stdin, events as JSON lines on stdout. When stdin closes the
runner is gone, and so is this process. A crash here costs this artifact only.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel

from bench.plan.artifact import Measurement, names
from bench.results.record import DONE, Record
from bench.results.store import Store, is_disk_full
from bench.run.events import Events
from bench.run.new_record import failed_record
from bench.system.cache import in_use


class Assignment(BaseModel):
    """What the runner hands over."""

    cells: list[Measurement]
    results: Path
    wait: bool
    """Wait for another run that holds this artifact, or say it is busy."""


def main() -> None:
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not look like an event
    job = Assignment.model_validate_json(sys.stdin.readline())
    threading.Thread(target=_die_with_parent, daemon=True).start()
    work(job, Events(channel))


def _die_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


def work(job: Assignment, events: Events) -> None:
    """Fill in the cells that have no record yet."""
    try:
        _work(job, events)
    except Exception as fault:
        if not is_disk_full(fault):
            raise
        where = getattr(fault, "filename", None) or job.results
        events.say("fatal", reason=f"the disk is full ({where}): free some space, then run the same command again")


def _work(job: Assignment, events: Events) -> None:
    store = Store(job.results)
    artifact = job.cells[0].artifact
    lock = FileLock(store.lock(artifact.key))
    try:
        lock.acquire(timeout=-1 if job.wait else 0)
    except Timeout:
        events.say("busy")
        return
    with lock, in_use(*names(artifact)):
        missing = []
        for cell in job.cells:  # another run may have filled them while this one waited
            known = store.get(cell.key)
            if known and known.status in DONE:
                events.say("cell", key=cell.key, status=known.status, known=True)
            else:
                missing.append(cell)
        if missing:
            _fill(missing, store, events)


def _fill(cells: list[Measurement], store: Store, events: Events) -> None:
    from bench.run.build import Builder

    artifact = cells[0].artifact
    builder = Builder(artifact, events)
    try:
        built = builder.build(artifact)
    except Exception as fault:  # the cell boundary: a method may raise anything
        if is_disk_full(fault):
            raise
        for cell in cells:
            _record(store, events, failed_record(cell, fault))
        return
    for cell in cells:
        events.phase = cell.label
        started = time.monotonic()
        try:
            record, items = builder.measure(cell, built)
        except Exception as fault:  # the cell boundary
            if is_disk_full(fault):
                raise
            record, items = failed_record(cell, fault), ()
        record.cost["wall_s"] = round(time.monotonic() - started, 3)
        _record(store, events, record, items)


def _record(store: Store, events: Events, record: Record, items: Any = ()) -> None:
    store.write(record, items)
    events.say("cell", key=record.key, status=record.status, reason=record.reason)


if __name__ == "__main__":
    main()
