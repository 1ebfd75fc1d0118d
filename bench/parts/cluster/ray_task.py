"""One artifact as a Ray task. A worker process on the node builds it, and the task forwards its
events.

Ray receives names of this module and JSON text. It calls `make` in a Ray worker, one artifact at a
time.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bench.execution import signals
from bench.execution.events import read_event
from bench.execution.executor import FORGED
from bench.execution.processes import WorkerProcesses, list_imports
from bench.execution.worker import Assignment
from bench.execution.worker_process import WorkerProcess, checkpoint_seconds, read_end
from bench.results.store import Store
from bench.results.transfer import pack_record
from bench.system.cache import cache_dir, temporary_folder
from bench.system.devices import KERNEL_PATH
from bench.system.provenance import ISA_VARIABLES, describe_code

HANDED_ON = (*ISA_VARIABLES, KERNEL_PATH, "CAST_BENCH_CACHE", "BENCH_DATA_DIR", "HF_HUB_OFFLINE")
"""Environment variables that nodes take from the driver."""
LOOK_S = 1.0
"""Seconds between two looks for a stop request of the driver."""

CARDS = "CUDA_VISIBLE_DEVICES"
"""Environment variable by which Ray assigns cards."""

_processes: WorkerProcesses | None = None
"""Workers of this Ray worker, which serves several artifacts and forks them."""
_cards: str | None = None
"""Cards that `_processes` uses."""


class Order(BaseModel):
    """The order of a task."""

    job: Assignment
    code: str
    environment: dict[str, str]
    mark: str
    """Name of a file that the driver made. A node that sees it writes into the results folder
    itself."""
    stops: str
    """Name of the `StopFlag` actor."""


class StopFlag:
    """An actor beside the driver that holds its stop request."""

    def __init__(self) -> None:
        self._is_asked = False

    def ask(self) -> None:
        self._is_asked = True

    def is_asked(self) -> bool:
        return self._is_asked


def make(description: str) -> Iterator[str]:
    """Build an artifact, and yield its events. description: an Order as JSON.

    Beside the events of bench.execution.worker: "refused" with a reason; "record" if the node does
    not see the results folder; and at the end "exit" with the worker's code, and its last output if
    that is not 0.
    """
    order = Order.model_validate_json(description)
    node = socket.gethostname()
    os.environ.update(order.environment)
    own = describe_code()
    if own != order.code:
        reason = (
            f"node {node} has cast-bench {own}, and this machine has {order.code}: install the "
            "same on all nodes"
        )
        yield _event("refused", reason=reason)
        return
    job, results = order.job, order.job.results
    yield _event("begun", wait=job.wait)
    with contextlib.ExitStack() as stack:
        store = None
        if not (results / "locks" / order.mark).exists():
            store = Store(stack.enter_context(temporary_folder("results")))
            job = job.model_copy(update={"results": store.root})
        yield _event("node", name=node, shares_results=store is None)
        keys = {measurement.key for measurement in job.measurements}
        log = cache_dir() / "logs" / f"{job.measurements[0].artifact.key[:32]}.{os.getpid()}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        stack.callback(log.unlink, missing_ok=True)
        worker = _start(job, log)
        try:
            with _forwarding(worker, order.stops):
                worker.send(job.model_dump_json())
                try:
                    for line in worker.lines():
                        event = read_event(line)
                        if store and event["event"] == "measurement":
                            if event["key"] not in keys or not store.get(event["key"]):
                                raise ValueError("a measurement without a record")
                            yield _event("record", **pack_record(store, event["key"]))
                        yield line
                    code = worker.wait()
                except ValueError:
                    worker.kill()
                    code = FORGED
        except BaseException:  # Ray ends this task
            worker.stop(checkpoint_seconds(job.measurements[0].artifact))
            raise
        finally:
            worker.close()
        yield _event("exit", code=code, log=read_end(log) if code else "")


def _event(kind: str, **fields: Any) -> str:
    return json.dumps({"event": kind, **fields})


def _start(job: Assignment, log: Path) -> WorkerProcess:
    global _processes, _cards
    if _processes and _cards != os.environ.get(CARDS):  # a fork server keeps its first environment
        _processes.close()
        _processes = None
    if _processes is None:
        _processes, _cards = (
            WorkerProcesses(2, list_imports(job.measurements)),
            os.environ.get(CARDS),
        )
    with log.open("w") as file:
        return _processes.start(file)


@contextlib.contextmanager
def _forwarding(worker: WorkerProcess, stops: str) -> Iterator[None]:
    """Forward SIGTERM, as on a spot node that is taken back, and the driver's stop request to the
    worker."""
    ended = threading.Event()
    watch = threading.Thread(target=_watch, args=(worker, stops, ended), daemon=True)
    watch.start()
    try:
        with signals.handled(lambda *_: worker.send_signal(signal.SIGTERM), (signal.SIGTERM,)):
            yield
    finally:
        ended.set()


def _watch(worker: WorkerProcess, stops: str, ended: threading.Event) -> None:
    import ray

    # The driver is gone: Ray ends this process.
    with contextlib.suppress(ray.exceptions.RayError, ValueError):
        actor = ray.get_actor(stops)
        while not ended.wait(LOOK_S):
            if ray.get(actor.is_asked.remote()):
                worker.send_signal(signal.SIGTERM)
                return
