"""One artifact as a Ray task: a worker process of the node makes it, and its events are handed on.

Ray is given this module's names and JSON text. It calls `make` in a process of its own, one artifact at a time.
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
from bench.execution.processes import WorkerProcesses, list_imports
from bench.execution.worker import Assignment
from bench.execution.worker_process import CHECKPOINT_S, WorkerProcess, read_end
from bench.results.store import Store
from bench.results.transfer import pack_record
from bench.system.cache import cache_dir, temporary_folder
from bench.system.code_version import describe_code
from bench.system.devices import KERNEL_PATH
from bench.system.provenance import ISA_VARIABLES

HANDED_ON = (*ISA_VARIABLES, KERNEL_PATH, "CAST_BENCH_CACHE", "BENCH_DATA_DIR", "HF_HUB_OFFLINE")
"""Environment variables that every node has as the driver does."""
LOOK_S = 1.0
"""How often to look whether the driver asks for the end."""

CARDS = "CUDA_VISIBLE_DEVICES"
"""The environment variable by which Ray gives out cards."""

_processes: WorkerProcesses | None = None
"""Of this Ray worker: Ray calls it again for other artifacts, and they are forked."""
_cards: str | None = None
"""Those that `_processes` see."""


class Order(BaseModel):
    """What a task is asked to do, by which code, with what in the environment."""

    job: Assignment
    code: str
    environment: dict[str, str]
    mark: str
    """A file in the results folder that the driver made: a node that sees it writes there itself."""
    stops: str
    """Name of the actor that knows whether the run is to end."""


class StopFlag:
    """An actor beside the driver: whether the run is to end, trainings after a checkpoint."""

    def __init__(self) -> None:
        self._is_asked = False

    def ask(self) -> None:
        self._is_asked = True

    def is_asked(self) -> bool:
        return self._is_asked


def make(description: str) -> Iterator[str]:
    """Make an artifact, and yield its events. description: an Order as JSON.

    Beside the events of bench.execution.worker: "refused" with a reason; "record" where the results folder is not seen here; and
    at the end "exit" with the worker's code, and what it printed last where that is not 0.
    """
    order = Order.model_validate_json(description)
    node = socket.gethostname()
    os.environ.update(order.environment)
    if (own := describe_code()) != order.code:
        reason = f"node {node} has cast-bench {own}, and this machine has {order.code}: install the same on all nodes"
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
        log = cache_dir() / "logs" / f"{job.measurements[0].artifact.key[:32]}.{os.getpid()}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        stack.callback(log.unlink, missing_ok=True)
        worker = _start(job, log)
        try:
            with _forwarding(worker, order.stops):
                worker.send(job.model_dump_json())
                for line in worker.lines():
                    if store and (record := _record_of(line, store)):
                        yield record
                    yield line
                code = worker.wait()
        except BaseException:  # Ray ends this task
            worker.stop(CHECKPOINT_S if job.measurements[0].artifact.training else 0)
            raise
        finally:
            worker.close()
        yield _event("exit", code=code, log=read_end(log) if code else "")


def _event(kind: str, **fields: Any) -> str:
    return json.dumps({"event": kind, **fields})


def _start(job: Assignment, log: Path) -> WorkerProcess:
    global _processes, _cards
    if _processes and _cards != os.environ.get(CARDS):  # a fork server keeps the environment that it was started with
        _processes.close()
        _processes = None
    if _processes is None:
        _processes, _cards = WorkerProcesses(2, list_imports(job.measurements)), os.environ.get(CARDS)
    with log.open("w") as file:
        return _processes.start(file)


def _record_of(line: str, store: Store) -> str | None:
    """The record that an event speaks of, packed; None where it is no event of a measurement."""
    try:
        event = json.loads(line)
    except ValueError:  # its worker was killed in the middle of it
        return None
    return _event("record", **pack_record(store, event["key"])) if event["event"] == "measurement" else None


@contextlib.contextmanager
def _forwarding(worker: WorkerProcess, stops: str) -> Iterator[None]:
    """Within it the worker is told to end, which a training does after a checkpoint, when this process is, as on a spot node
    that is taken back, or when the driver asks for it."""
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

    with contextlib.suppress(ray.exceptions.RayError, ValueError):  # the driver is gone: Ray ends this process
        actor = ray.get_actor(stops)
        while not ended.wait(LOOK_S):
            if ray.get(actor.is_asked.remote()):
                worker.send_signal(signal.SIGTERM)
                return
