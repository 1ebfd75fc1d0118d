"""Forwards the events of a run, and the values of its records, to trackers.

Each tracker runs in its own process, so it can neither fail nor block the run. The run reports a
tracker's failure once.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from queue import SimpleQueue
from threading import Thread
from typing import Any

from bench.catalog import registry
from bench.execution.executor import describe_end
from bench.execution.listener import RunListener, RunningArtifact, TimeLeft
from bench.results.record import Record
from bench.system import interpreter, provenance
from bench.system.grouping import flatten
from bench.system.packages import pip_install, require

CLOSE_S = 60.0
"""Seconds that trackers have to send the rest when the run ends."""
STOPPED_S = 5.0
"""The same after a signal, when a job manager kills the run soon."""
SILENT_S = 2.0
"""Part of this time in seconds that passes without a message."""
TELLING = ("imported", "state", "progress", "measurement")
"""Events that show that this run, not another one, makes the artifact."""
MAX_CURVES = 100_000
"""Largest number of queued points of curves, some tens of megabytes."""
NORMAL_95 = 1.96
"""Half-width of a 95% interval in standard errors."""


class Tracking(RunListener):
    """Trackers that follow a run."""

    @staticmethod
    def require(names: Iterable[str]) -> None:
        """Raise UserError if a tracker of a plug-in is broken, or the package of one of ours is not
        installed."""
        for name in names:
            if registry.distribution_of("trackers", name):
                registry.lookup("trackers", name)
            else:
                require(name, what=f"--log-to {name}", how=pip_install(name))

    def __init__(
        self,
        names: Iterable[str],
        run: str,
        read: Callable[[str], Record | None],
        say: Callable[[str], None],
    ) -> None:
        """run: its name in the results folder. read: returns a record by its key. say: prints a
        sentence."""
        self._channels = [_Channel(name) for name in names]
        self._run, self._read, self._say = run, read, say
        self._waiting: dict[str, dict[str, Any]] = {}  # artifacts that no tracker knows yet
        self._told: set[str] = set()

    @property
    def own(self) -> tuple[int, ...]:
        return tuple(channel.pid for channel in self._channels)

    def start(self, running: RunningArtifact, left: TimeLeft) -> None:
        artifact, measurements = running.artifact, running.measurements
        tags = {"key": artifact.key, "run": self._run, "version": provenance.VERSION}
        tags |= {"commit": str(provenance.commit().get("id") or "")}
        tags |= {f"record.{m.label}": m.key for m in measurements}
        parts = (
            running.settings,
            {m.label: m.config for m in measurements},
            {"key": artifact.key_inputs()},
        )
        self._waiting[artifact.key] = {
            "name": running.label,
            "params": {name: str(value) for part in parts for name, value in flatten(part)},
            "tags": {f"cast_bench.{name}": value for name, value in tags.items() if value},
        }

    def take(self, running: RunningArtifact, event: Mapping[str, Any], left: TimeLeft) -> None:
        key = running.artifact.key
        if event.get("known"):  # the run that recorded it has told its trackers
            return
        if event["event"] in TELLING and key in self._waiting:
            self._told.add(key)
            self._tell("start", key, **self._waiting.pop(key))
        if key not in self._told:
            return
        if event["event"] == "progress" and event["figures"]:
            self._tell(
                "curve", key, phase=event["phase"], step=event["done"], figures=event["figures"]
            )
        if (
            event["event"] == "measurement"
            and (record := self._read(event["key"]))
            and record.readings
        ):
            self._tell("metrics", key, values=dict(_values(record)))

    def end(self, running: RunningArtifact, cause: str, records: Sequence[Record] | None) -> None:
        key = running.artifact.key
        self._waiting.pop(key, None)
        if key in self._told:
            self._told.remove(key)
            self._tell("end", key, ok=not cause)

    def close(self, fault: BaseException | None = None) -> None:
        """Wait until everything is sent, or until the timeout."""
        patience = STOPPED_S if isinstance(fault, KeyboardInterrupt | SystemExit) else CLOSE_S
        for channel in self._channels:
            channel.finish()
        now = time.monotonic()
        with contextlib.suppress(KeyboardInterrupt):
            slow = [
                c.name for c in self._channels if not c.has_ended(now + min(SILENT_S, patience))
            ]
            if slow:
                self._say(
                    f"waiting up to {patience:g} s for {' and '.join(slow)}; Ctrl-C leaves the rest"
                )
            for channel in self._channels:
                channel.has_ended(now + patience)
        for channel in self._channels:
            channel.close()
        self._say_problems("")

    def _tell(self, action: str, artifact: str, **arguments: Any) -> None:
        for channel in self._channels:
            channel.send({"do": action, "artifact": artifact, **arguments})
        self._say_problems()

    def _say_problems(self, what_then: str = "; the run goes on without it") -> None:
        for channel in self._channels:
            problem = channel.take_problem()
            if problem:
                self._say(f"--log-to {channel.name}: {problem}{what_then}")


class _Channel:
    """A connection to the process of one tracker. A thread writes, so that it does not block the
    run."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._orders: SimpleQueue[str | None] = SimpleQueue()
        self._answer = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  closed in take_problem()
        self._process = subprocess.Popen(
            interpreter.command("bench.parts.trackers.process", name),
            stdin=subprocess.PIPE,
            stdout=self._answer,
            stderr=subprocess.DEVNULL,
            env=interpreter.environment(),
            text=True,
            start_new_session=True,  # Ctrl-C must not reach it: it has to send the rest
        )
        self.pid = self._process.pid
        self._problem = ""
        self._is_told = False
        self._writer = Thread(target=self._write, daemon=True)
        self._writer.start()

    def send(self, order: Mapping[str, Any]) -> None:
        """Queue an order. Drop it if the process has exited, or if the queue of curves is full."""
        takes_all = self._orders.qsize() < MAX_CURVES or order["do"] != "curve"
        if self._writer.is_alive() and takes_all:
            self._orders.put(json.dumps(order, default=str))

    def take_problem(self) -> str:
        """Return why the process ended, once, or "" while it runs and after a good end."""
        code = self._process.poll()
        if code is None or self._is_told:
            return ""
        self._is_told = True
        self._answer.seek(0)
        said = self._answer.read().strip().splitlines()
        self._answer.close()
        if self._problem:
            return self._problem
        if said:
            return said[-1]
        return describe_end(code) if code else ""

    def finish(self) -> None:
        self._orders.put(None)

    def has_ended(self, deadline: float) -> bool:
        """Wait for the process until `deadline` on the monotonic clock. Return whether it has
        ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))
        return self._process.returncode is not None

    def close(self) -> None:
        """Kill the process if it still runs."""
        if not self.has_ended(0.0):
            self._problem = "not all was sent"
            self._process.kill()
            self._process.wait()

    def _write(self) -> None:
        assert self._process.stdin
        with contextlib.suppress(OSError), self._process.stdin as stdin:
            while (line := self._orders.get()) is not None:
                stdin.write(line + "\n")
                stdin.flush()


def _values(record: Record) -> Iterator[tuple[str, float]]:
    """Yield each metric by measure, and the ends of its 95% interval."""
    config = record.key_inputs.get("measure", {}).get("config", {})
    measure = " ".join(filter(None, (record.identity.measure, config.get("task"))))
    for reading in record.readings:
        if reading.value is not None:
            name = f"{measure}/{reading.metric}"
            yield name, reading.value
            if reading.stderr:
                yield f"{name}_low", reading.value - NORMAL_95 * reading.stderr
                yield f"{name}_high", reading.value + NORMAL_95 * reading.stderr
