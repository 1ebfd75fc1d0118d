"""The status of a run, and a log of JSON lines for each artifact, in the results folder.

runs/NAME.json is the current status (bench.results.run_status). logs/KEY.jsonl is the log of an
artifact, KEY the first 32 digits of its key; docs/scale.md lists the fields. If a file cannot be
written, the run says so once and goes on.
"""

from __future__ import annotations

import json
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from bench.execution.listener import RunListener, RunningArtifact, TimeLeft
from bench.execution.new_record import MAX_REASON
from bench.results.record import Record
from bench.results.run_status import (
    AtWork,
    RunStatus,
    lock_of,
    sweep_statuses,
    write_status,
)
from bench.system.provenance import describe_code, format_time

EVERY_S = 1.0
"""Shortest time between two status files in seconds."""
PROGRESS_S = 5.0
"""Shortest time between two log lines about one phase in seconds."""
MAX_BYTES = 2**20
"""Size of a log above which progress is left out, and above which the next run starts a new log."""
LOCK_S = 5.0


class Journal(RunListener):
    """Writer of one run's status and logs."""

    def __init__(self, root: Path, executor: str, say: Callable[[str], None]) -> None:
        """say: called with a sentence if the journal cannot be written."""
        self._root, self._say, self._has_said = root, say, False
        self._attempt(lambda: sweep_statuses(root))
        host, now = socket.gethostname(), time.time()
        name = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(now))}-{uuid.uuid4().hex[:8]}"
        self.status = RunStatus(
            name=name, code=describe_code(), host=host, executor=executor, started=now, updated=now
        )
        self._lock = FileLock(lock_of(root, name))
        self._written = 0.0
        self._logged: dict[str, float] = {}
        """Time of the last progress line, by artifact."""
        self._at_work: dict[str, AtWork] = {}
        self._begun: dict[str, float] = {}
        self._attempt(self._begin)

    def _begin(self) -> None:
        Path(self._lock.lock_file).parent.mkdir(exist_ok=True)
        (self._root / "logs").mkdir(exist_ok=True)
        # A process that checks whether this run is alive holds it for a moment.
        self._lock.acquire(timeout=LOCK_S)

    def begin(self, total: int, known: int) -> None:
        self.status.total, self.status.known = total, known
        self._write()

    def start(self, running: RunningArtifact, left: TimeLeft) -> None:
        artifact, label, device = running.artifact, running.label, running.device
        self._begun[artifact.key] = time.monotonic()
        self._at_work[artifact.key] = AtWork(
            label=label, device=device, state="importing", since=time.time()
        )
        about = {
            "event": "started",
            "run": self.status.name,
            "artifact": artifact.key,
            "label": label,
        }
        self._log(artifact.key, about | running.settings)
        self._write()

    def take(self, running: RunningArtifact, event: Mapping[str, Any], left: TimeLeft) -> None:
        key = running.artifact.key
        self.status.left = left.run
        at_work = self._at_work.get(key)
        match event["event"]:
            case "progress" if at_work:
                at_work.phase, at_work.state = event["phase"], ""
                at_work.done, at_work.total = event["done"], event["total"]
                at_work.figures, at_work.left = event["figures"], left.phase
                now = time.monotonic()
                if event["done"] < event["total"] and now - self._logged.get(key, 0.0) < PROGRESS_S:
                    return self._write(if_due=True)
                self._logged[key] = now
            case "state" if at_work:
                at_work.phase, at_work.state, at_work.left = event["phase"], event["state"], None
            case "measurement":
                event = {**event, "reason": event.get("reason", "")[:MAX_REASON]}
                if not event.get("known"):
                    self.status.tried = dict(
                        Counter(self.status.tried) + Counter([event["status"]])
                    )
                else:
                    self.status.known += 1
        self._log(key, event)
        return self._write(if_due=event["event"] != "measurement")

    def end(self, running: RunningArtifact, cause: str, records: Sequence[Record] | None) -> None:
        key = running.artifact.key
        if self._at_work.pop(key, None):
            self._log(
                key,
                {
                    "event": "ended",
                    "cause": cause,
                    "seconds": round(time.monotonic() - self._begun[key], 1),
                },
            )
        self._write()

    def close(self, fault: BaseException | None = None) -> None:
        self.status.ended, self.status.outcome = time.time(), _describe(fault)
        self._at_work.clear()
        self._write()
        self._attempt(self._release)

    def _release(self) -> None:
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)

    def _log(self, key: str, event: Mapping[str, Any]) -> None:
        def append() -> None:
            path = self._root / "logs" / f"{key[:32]}.jsonl"
            if path.exists() and path.stat().st_size > MAX_BYTES:
                if event["event"] == "progress":
                    return
                if event["event"] == "started":
                    path.unlink()
            entry = {"time": format_time(time.time(), "milliseconds"), **event}
            line = json.dumps(entry, allow_nan=False, default=str) + "\n"
            # Unbuffered, so one write: other runs may add lines.
            with path.open("ab", buffering=0) as file:
                file.write(line.encode())

        self._attempt(append)

    def _write(self, if_due: bool = False) -> None:
        now = time.monotonic()
        if if_due and now - self._written < EVERY_S:
            return
        self._written = now
        self.status.updated, self.status.at_work = time.time(), list(self._at_work.values())
        self._attempt(lambda: write_status(self._root, self.status))

    def _attempt(self, write: Callable[[], None]) -> None:
        if not (self._root / "records").is_dir():  # do not recreate a shared folder that vanished
            return
        try:
            write()
        except (OSError, ValueError) as fault:
            if not self._has_said:
                self._has_said = True
                self._say(
                    f"the status and the logs of this run cannot be written ({fault}): it goes on "
                    "without"
                )


def _describe(fault: BaseException | None) -> str:
    """Return why a run ended early, or ""."""
    if isinstance(fault, KeyboardInterrupt | SystemExit):
        return "stopped by a signal"
    return f"{type(fault).__name__}: {fault}"[:MAX_REASON] if fault else ""
