"""The executor on a Ray cluster. An artifact is a task with the CPUs, cards and memory of its
plan."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import IO, Any

import psutil

from bench.execution import signals
from bench.execution.disk import RunStopped
from bench.execution.executor import LOST, Worker
from bench.execution.worker import Assignment
from bench.parts.cluster import ray_task
from bench.planning.artifact import Artifact, Measurement, Plan
from bench.planning.memory import estimate_bytes
from bench.results.store import Store
from bench.results.transfer import unpack_record
from bench.system.interpreter import ROOT
from bench.system.packages import pip_install, require
from bench.system.provenance import describe_code
from methods.contract.errors import UserError, first_line

WAITING = 2
"""Number of tasks beyond the room of the cluster, for its autoscaler to see."""
LOOK_S = 5.0
"""Seconds between two looks at the size of the cluster."""
CONNECT_S = 10.0
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def import_ray() -> Any:
    """Import Ray, or raise UserError."""
    require("ray", what="--executor ray", how=f"{pip_install('ray')} on every node")
    import ray

    return ray


class RayExecutor:
    """Tasks of a Ray cluster.

    The driver writes the records of nodes that do not see the results folder.
    """

    queues = True

    def __init__(self, plan: Plan, missing: Sequence[list[Measurement]], store: Store) -> None:
        """Connect to the cluster, or raise UserError."""
        self._ray = ray = import_ray()
        self.store, self._most, self.problem = store, plan.spec.jobs, ""
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        with contextlib.ExitStack() as stack:
            # Ray prints to stdout, which is for the table
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            _connect(ray, plan.spec.ray_address)
            stack.callback(ray.shutdown)
            self.own = tuple(child.pid for child in psutil.Process().children())
            self._mark = store.root / "locks" / f".ray-{uuid.uuid4().hex}"
            self._mark.touch()
            stack.callback(self._mark.unlink, missing_ok=True)
            node = ray.get_runtime_context().get_node_id()
            here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
            self._stops_name = f"cast-bench-{uuid.uuid4().hex}"
            actor = ray.remote(ray_task.StopFlag)
            self._stops = actor.options(
                num_cpus=0, name=self._stops_name, scheduling_strategy=here
            ).remote()
            self._make = ray.remote(ray_task.make)
            self._held = stack.pop_all()
        self._places, self._looked = 1, -LOOK_S
        wanted = [resources_of(measurements[0].artifact) for measurements in missing]
        self._least = find_least(wanted)
        self.problem = describe_lack(
            [node["Resources"] for node in ray.nodes() if node["Alive"]], wanted
        )

    @property
    def jobs(self) -> int:
        """Return --jobs, or the room of the cluster plus a few tasks that wait."""
        if isinstance(self._most, int):
            return self._most
        if time.monotonic() - self._looked > LOOK_S:
            self._looked = time.monotonic()
            self._places = sum(
                _places(node["Resources"], self._least)
                for node in self._ray.nodes()
                if node["Alive"]
            )
        return self._places + WAITING

    def start(self, log: IO[str]) -> RayWorker:
        return RayWorker(self, log)

    def reruns(self, code: int | None) -> bool:
        """Return whether the node was lost, or ended the worker, as a spot node does."""
        return code in (LOST, -signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM)

    def submit(self, description: str) -> Any:
        """Start a task and return its generator of events. description: an Assignment as JSON."""
        job = Assignment.model_validate_json(description)
        order = ray_task.Order(
            job=job,
            code=describe_code(),
            environment={
                name: os.environ[name] for name in ray_task.HANDED_ON if name in os.environ
            },
            mark=self._mark.name,
            stops=self._stops_name,
        )
        options = {"num_returns": "streaming", "max_retries": 0, "scheduling_strategy": "SPREAD"}
        resources = resources_of(job.measurements[0].artifact)
        return self._make.options(**options, **resources).remote(order.model_dump_json())

    def ask_to_stop(self) -> None:
        self._ray.get(self._stops.ask.remote(), timeout=10)

    def close(self) -> None:
        self._held.close()


class RayWorker(Worker):
    """A task, in the driver."""

    def __init__(self, executor: RayExecutor, log: IO[str]) -> None:
        self._executor, self._log = executor, os.dup(log.fileno())
        self._events: Any = None
        self._code: int | None = None
        self._ended = threading.Event()
        self._keys: tuple[str, ...] = ()

    def send(self, line: str) -> None:
        self._keys = tuple(m.key for m in Assignment.model_validate_json(line).measurements)
        self._events = self._executor.submit(line)

    def lines(self) -> Iterator[str]:
        """Yield events, and store the records among them. Refuse a node with other code. Raise
        RunStopped without a task."""
        ray = import_ray()
        code: int | None = LOST
        try:
            for reference in self._events:
                line = ray.get(reference)
                event = json.loads(line)
                match event["event"]:
                    case "exit":
                        code = event["code"]
                        os.write(self._log, event["log"].encode())
                    case "refused":
                        raise UserError(event["reason"])
                    case "record":
                        try:
                            unpack_record(self._executor.store, event, self._keys)
                        except (ValueError, UserError) as fault:
                            os.write(self._log, f"a damaged record arrived: {fault}\n".encode())
                            ray.cancel(self._events, force=True)
                            return
                    case _:
                        yield line
        except ray.exceptions.TaskCancelledError:
            code = -signal.SIGTERM
        except ray.exceptions.RayTaskError as fault:
            raise RunStopped(
                f"a node cannot make artifacts: {str(fault).strip().splitlines()[-1]}"
            ) from fault
        except ray.exceptions.RayError as fault:  # the Ray worker or its node died
            os.write(self._log, f"{type(fault).__name__}: {fault}\n".encode())
        finally:
            self._code = code
            self._ended.set()

    def wait(self, timeout: float | None = None) -> int | None:
        return self._code if self._ended.wait(timeout) else None

    def ask_to_end(self) -> None:
        """Ask all tasks of the run to end. The run asks one only when it asks all."""
        if not self._ended.is_set():
            with contextlib.suppress(import_ray().exceptions.RayError):
                self._executor.ask_to_stop()

    def kill(self) -> None:
        if self._events is not None and not self._ended.is_set():
            import_ray().cancel(self._events, force=True)

    def close(self) -> None:
        self.kill()
        os.close(self._log)


def resources_of(artifact: Artifact) -> dict[str, float]:
    """Return the resources of a task by Ray's names: threads, cards, bytes of memory."""
    cards = {} if artifact.device == "cpu" else {"num_gpus": artifact.most_ranks}
    return {"num_cpus": artifact.threads, "memory": int(estimate_bytes(artifact)), **cards}


def find_least(wanted: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the smallest request for each resource. Ray makes larger tasks wait."""
    least: dict[str, float] = {}
    for name in {name for one in wanted for name in one}:
        least[name] = min(one.get(name, 0.0) for one in wanted)
    return least


def describe_lack(nodes: Sequence[dict[str, float]], wanted: Sequence[dict[str, float]]) -> str:
    """Describe the tasks that no node has room for, even when idle. Return "" if there are none."""
    homeless = []
    for one in wanted:
        if not any(_places(node, one) for node in nodes):
            homeless.append(one)
    if not homeless:
        return ""
    many = f"{len(homeless)} of {len(wanted)} artifacts" if len(wanted) > 1 else "the artifact"
    first = homeless[0]
    what = f"{first['num_cpus']:g} CPUs, {first['memory'] / 1e9:.1f} GB of memory"
    if "num_gpus" in first:
        what += f", {first['num_gpus']:g} cards"
    return f"no node of the cluster has {what}: {many} must wait until one joins"


def _places(has: dict[str, float], wanted: dict[str, float]) -> int:
    """Count such tasks that fit on a node at a time."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    places = [has.get(names[name], 0.0) // amount for name, amount in wanted.items() if amount]
    return int(min(places))


def _connect(ray: Any, address: str) -> None:
    """Connect to a cluster, or raise UserError if there is none at the address."""
    try:
        match = re.fullmatch(r"(.+):([0-9]{1,5})", address)
        if match and int(match[2]) < 2**16:
            # Ray itself waits for minutes.
            with socket.create_connection((match[1], int(match[2])), timeout=CONNECT_S):
                pass
        # Ray puts it on its workers' module path: see SECURITY.md.
        with signals.kept(), contextlib.chdir(ROOT):
            ray.init(
                address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False
            )
    except (OSError, ValueError, RuntimeError) as fault:
        reason = first_line(fault)
        raise UserError(
            f"no Ray cluster at --ray-address {address!r} ({reason}): start one with ray start "
            "--head, or use --ray-address local for one on this machine"
        ) from None
