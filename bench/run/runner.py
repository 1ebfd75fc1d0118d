"""Execute a plan: what has no record yet, one process an artifact, each sharing the work with other runs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bench.plan.artifact import Measurement
from bench.plan.plan import Plan
from bench.results.record import DONE, Record
from bench.results.store import Store, is_disk_full
from bench.run.new_record import failed_record
from bench.run.progress import ProgressDisplay
from bench.run.worker import Assignment
from bench.system.cache import cache_dir, in_use

KEEPS_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**40)}
"""A worker's, where nobody set them: by default glibc returns each large tensor's memory and gets it anew, page by page."""


class Stopped(Exception):
    """The run cannot go on, and why: results could not be saved."""


@contextlib.contextmanager
def full_disk_stops(root: Path) -> Iterator[None]:
    """
    Raises:
        Stopped: in place of the error that a full disk gives.
    """
    try:
        yield
    except OSError as fault:
        if not is_disk_full(fault):
            raise
        raise Stopped(
            f"the disk is full ({fault.filename or root}): free some space, then run the same command again"
        ) from fault


class Killed(Exception):
    """A worker ended without a word."""


@dataclass
class Summary:
    """How a run ended."""

    records: list[Record] = field(default_factory=list)
    computed: int = 0
    moved: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return sum(r.status == "failed" for r in self.records)


def execute(plan: Plan, store: Store, watch: ProgressDisplay) -> Summary:
    """Fill in what is missing, then read every cell's record.

    Raises:
        Stopped: the disk is full. What was recorded stays.
    """
    try:
        with full_disk_stops(store.root):
            return _execute(plan, store, watch)
    finally:
        watch.end()


def _execute(plan: Plan, store: Store, watch: ProgressDisplay) -> Summary:
    summary = Summary()
    queue: deque[list[Measurement]] = deque()
    known = 0
    for cells in plan.artifacts().values():
        missing = [c for c in cells if not _done(store, c)]
        known += len(cells) - len(missing)
        if missing:
            queue.append(missing)
    watch.begin(len(plan.cells), known)
    busy_in_a_row = 0
    while queue:
        cells = queue.popleft()
        wait = busy_in_a_row > len(queue)  # everything left is held by other runs
        with in_use(cells[0].artifact.key[:32]):  # its log
            ours = _run(cells, store, watch, wait, summary)
        if ours:
            busy_in_a_row = 0
        else:
            busy_in_a_row += 1
            queue.append(cells)
    for cell in plan.cells:
        if (record := store.get(cell.key)) is not None:
            summary.records.append(record)
    summary.moved = store.moved
    return summary


def _done(store: Store, cell: Measurement) -> bool:
    record = store.get(cell.key)
    return record is not None and record.status in DONE


def _run(cells: list[Measurement], store: Store, watch: ProgressDisplay, wait: bool, summary: Summary) -> bool:
    """One artifact in its own process; False if another run holds it."""
    artifact = cells[0].artifact
    log = cache_dir() / "logs" / f"{artifact.key[:32]}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    watch.artifact(artifact.label, wait)
    open_cells = {c.key: c for c in cells}
    with log.open("w") as stderr:
        worker = subprocess.Popen(
            [sys.executable, "-m", "bench.run.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=KEEPS_MEMORY | os.environ,
        )
        assert worker.stdin and worker.stdout
        try:
            worker.stdin.write(
                Assignment(cells=cells, results=store.root.resolve(), wait=wait).model_dump_json() + "\n"
            )
            worker.stdin.flush()
            for event in _events(worker.stdout):
                if event["event"] == "busy":
                    return False
                if event["event"] == "fatal":
                    raise Stopped(event["reason"])
                if event["event"] == "cell":
                    cell = open_cells.pop(event["key"])
                    summary.computed += not event.get("known", False)
                    watch.cell(cell.label, event["status"], event.get("reason", ""))
                elif event["event"] == "progress":
                    watch.progress(event["phase"], event["done"], event["total"], event["figures"])
            code = worker.wait()
        except BaseException:
            worker.kill()
            raise
        finally:
            worker.stdin.close()
            worker.wait()
            worker.stdout.close()
    for cell in open_cells.values():
        _record_death(store, cell, code, log)
        watch.cell(cell.label, "failed", _cause(code))
    return True


def _record_death(store: Store, cell: Measurement, code: int, log: Path) -> None:
    """A failed row for a cell whose worker died, unless another run has taken it up since."""
    try:
        with FileLock(store.lock(cell.artifact.key), timeout=0):
            if not _done(store, cell):
                record = failed_record(cell, Killed(f"{_cause(code)}; its log is {log}"))
                record.traceback = log.read_text(errors="replace")[-20_000:]
                store.write(record)
    except Timeout:
        pass


def _cause(code: int) -> str:
    if code == -9:
        return "the process was killed (signal 9), as the system does when memory runs out"
    return f"the process ended on signal {-code}" if code < 0 else f"the process ended with code {code}"


def _events(stream: Any) -> Iterator[dict[str, Any]]:
    for line in stream:
        try:
            yield json.loads(line)
        except ValueError:  # its worker was killed in the middle of it
            return
