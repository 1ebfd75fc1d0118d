"""Hands what happens in a run on to trackers: the events that make the logs, and the values of the records.

Each tracker has a process of its own, so none can fail the run or hold it up. Where one fails, the run says so once.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from bench.execution.executor import describe_end
from bench.planning.artifact import Measurement
from bench.results.record import Record
from bench.system import interpreter, provenance

CLOSE_S = 60.0
"""For all trackers to send the rest when the run ends."""
STOPPED_S = 5.0
"""The same after a signal: a job manager kills the run soon, and a training was saved in that time, too."""
SILENT_S = 2.0
"""Of this time, what is not worth a word."""
TELLING = ("imported", "state", "progress", "measurement")
"""Events of an artifact that is made here; one without any is another run's."""
MAX_CURVES = 100_000
"""Some tens of megabytes."""
LISTEN_S = 5.0
"""For the last words of a process that has ended."""
NORMAL_95 = 1.96
"""Standard errors from a value to the ends of its 95 % interval."""


class Tracking:
    """The trackers of one run."""

    def __init__(
        self,
        names: Iterable[str],
        run: str,
        read: Callable[[str], Record | None],
        say: Callable[[str], None],
    ) -> None:
        """run: its name in the results folder; read: a record by its key; say: tells the user."""
        self._channels = [_Channel(name) for name in names]
        self._run, self._read, self._say = run, read, say
        self._waiting: dict[str, dict[str, Any]] = {}  # artifacts that nothing was told of yet
        self._told: set[str] = set()

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(STOPPED_S if kind and issubclass(kind, KeyboardInterrupt | SystemExit) else CLOSE_S)

    @property
    def own(self) -> tuple[int, ...]:
        """Its processes."""
        return tuple(channel.pid for channel in self._channels)

    def start(self, measurements: Sequence[Measurement], label: str) -> None:
        """measurements: of one artifact."""
        if not self._channels:
            return
        artifact = measurements[0].artifact
        about = artifact.model_dump(include={"model", "seed", "dtype", "device", "threads"}, mode="json")
        about |= {"method": artifact.method, "pattern": artifact.pattern, "quantizer": artifact.quantizer}
        tags = {"key": artifact.key, "run": self._run, "version": provenance.VERSION}
        tags |= {"commit": str(provenance.commit().get("id") or "")}
        tags |= {f"record.{m.label}": m.key for m in measurements}
        configs = {m.label: m.config for m in measurements}
        self._waiting[artifact.key] = {
            "name": label,
            "params": dict(_flat(about)) | dict(_flat(configs)) | dict(_flat(artifact.key_inputs(), "key.")),
            "tags": {f"cast_bench.{name}": value for name, value in tags.items() if value},
        }

    def take(self, key: str, event: Mapping[str, Any]) -> None:
        """What an artifact's worker said."""
        if event.get("known"):  # another run has recorded it, and told of it
            return
        if event["event"] in TELLING and key in self._waiting:
            self._told.add(key)
            self._tell("start", key, **self._waiting.pop(key))
        if key not in self._told:
            return
        if event["event"] == "progress" and event["figures"]:
            self._tell("curve", key, phase=event["phase"], step=event["done"], figures=event["figures"])
        if event["event"] == "measurement" and (record := self._read(event["key"])) and record.readings:
            self._tell("metrics", key, values=dict(_values(record)))

    def end(self, key: str, cause: str) -> None:
        self._waiting.pop(key, None)
        if key in self._told:
            self._told.remove(key)
            self._tell("end", key, ok=not cause)

    def close(self, patience: float) -> None:
        """Wait for what is still to be sent, at most so many seconds."""
        for channel in self._channels:
            channel.finish()
        now = time.monotonic()
        with contextlib.suppress(KeyboardInterrupt):
            if slow := [c.name for c in self._channels if not c.has_ended(now + min(SILENT_S, patience))]:
                self._say(f"waiting up to {patience:g} s for {' and '.join(slow)}; Ctrl-C leaves the rest")
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
            if problem := channel.take_problem():
                self._say(f"--log-to {channel.name}: {problem}{what_then}")


class _Channel:
    """To the process of one tracker. Two threads write and read, so that a process that hangs holds up neither."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._orders: SimpleQueue[str | None] = SimpleQueue()
        self._problems: SimpleQueue[str] = SimpleQueue()
        self._process = subprocess.Popen(
            interpreter.command("bench.execution.trackers.process", name),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=interpreter.environment(),
            text=True,
            start_new_session=True,  # Ctrl-C is not for it: it still has to send
        )
        self.pid = self._process.pid
        self._threads = [Thread(target=work, daemon=True) for work in (self._write, self._listen)]
        for thread in self._threads:
            thread.start()

    def send(self, order: Mapping[str, Any]) -> None:
        """Nothing, once its process has ended; and of curves no more than so many wait for one that hangs."""
        takes_all = self._orders.qsize() < MAX_CURVES or order["do"] != "curve"
        if self._threads[0].is_alive() and takes_all:
            self._orders.put(json.dumps(order, default=str))

    def take_problem(self) -> str:
        with contextlib.suppress(Empty):
            return self._problems.get_nowait()
        return ""

    def finish(self) -> None:
        """No more will be sent."""
        self._orders.put(None)

    def has_ended(self, deadline: float) -> bool:
        """Whether its process has, by then (of the monotonic clock)."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))
        return self._process.returncode is not None

    def close(self) -> None:
        """End its process, if it has not ended."""
        if not self.has_ended(0.0):
            self._problems.put("not all was sent")
            self._process.kill()
            self._process.wait()
        self._threads[1].join(LISTEN_S)

    def _write(self) -> None:
        assert self._process.stdin
        with contextlib.suppress(OSError), self._process.stdin as stdin:
            while (line := self._orders.get()) is not None:
                stdin.write(line + "\n")
                stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout
        said = self._process.stdout.read().strip()
        if said:
            self._problems.put(said.splitlines()[-1])
        elif code := self._process.wait():
            self._problems.put(describe_end(code))


def _values(record: Record) -> Iterator[tuple[str, float]]:
    """Each metric by its measure, and the ends of its 95 % interval."""
    config = record.key_inputs.get("measure", {}).get("config", {})
    measure = " ".join(filter(None, (record.identity.measure, config.get("task"))))
    for reading in record.readings:
        if reading.value is not None:
            name = f"{measure}/{reading.metric}"
            yield name, reading.value
            if reading.stderr:
                yield f"{name}_low", reading.value - NORMAL_95 * reading.stderr
                yield f"{name}_high", reading.value + NORMAL_95 * reading.stderr


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings, by dotted names."""
    for key, inner in value.items():
        if isinstance(inner, list | tuple) and inner and isinstance(inner[0], Mapping):
            inner = {str(number): each for number, each in enumerate(inner)}
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{key}.")
        elif inner is not None:
            yield f"{prefix}{key}", str(inner)
