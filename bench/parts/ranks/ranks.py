"""Several processes for one stage, on this node and on others.

The worker is rank 0 and starts the other ranks of its node. Each makes the same job and calls the
same method. How a method uses ranks: methods.workshop.training.process_group for a training,
methods.workshop.pruning.sharing for a calibration.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from pydantic import BaseModel

from bench.catalog import registry
from bench.execution import signals
from bench.execution.lead import STORE_ENV
from bench.parts.ranks import nodes
from bench.planning.artifact import Artifact
from bench.system import interpreter
from bench.system.devices import EXPANDABLE_SEGMENTS
from bench.system.provenance import describe_code
from methods.contract.errors import UserError

HOST = "127.0.0.1"
COMMAND = tuple(interpreter.command("bench.parts.ranks.rank_worker"))

START_TIMEOUT = timedelta(minutes=10)
"""Timeout for a rank to load its model."""
WAIT_TIMEOUT = timedelta(days=1)
"""Timeout of a wait for another rank, which may compute for hours on a CPU. A dead rank is noticed
at once."""
PATIENCE_S = 2.0
"""Seconds that a failed rank has to end, so that a fault here can be traced to it."""
EXIT_S = 60.0
"""Seconds that a rank has to end after its part."""
FAULT = "fault"
"""Key in the store for the exception of the first rank that failed."""


class NodeTask(BaseModel):
    """A stage of several processes, as other nodes hear of it."""

    artifact: Artifact
    host: str
    port: int
    """Port of the store where its processes meet."""
    code: str
    """Version and digest of our code, which must be the same on all nodes."""


class RankTask(NodeTask):
    """The task of one rank, which it reads from stdin."""

    rank: int
    card: int
    """Number of the card on its machine."""


def _make_store(host: str, world: int) -> dist.TCPStore:  # type: ignore[name-defined]
    """Open a store. On one machine it binds to the loopback address, because any client may set any
    entry."""
    place = socket.create_server((HOST, 0)) if host == HOST else None
    port, handle = (place.getsockname()[1], place.detach()) if place else (0, None)
    return dist.TCPStore(  # type: ignore[attr-defined]
        host, port, world, is_master=True, wait_for_workers=False, master_listen_fd=handle
    )


class RankFailed(Exception):
    """A rank's process ended too early."""


@contextlib.contextmanager
def start_ranks(artifact: Artifact, command: Sequence[str] = COMMAND) -> Iterator[None]:
    """Start the other ranks of an artifact, and be rank 0 within the block. Raise RankFailed if one
    fails."""
    world = artifact.ranks
    host = os.environ[STORE_ENV].rpartition(":")[0] if artifact.spread > 1 else HOST
    store = _make_store(host, world)
    task = NodeTask(artifact=artifact, host=host, port=store.port, code=describe_code())
    workers: list[subprocess.Popen[str]] = []
    torch.set_num_threads(artifact.rank_threads)
    try:
        elsewhere = nodes.announce(task.model_dump_json()) if artifact.spread > 1 else None
        for rank in range(1, world // artifact.spread):
            workers.append(_start(command, task, rank, card=rank))
        _join(task, store, workers, elsewhere)
        yield
        dist.barrier()
        dist.destroy_process_group()
        for rank, worker in enumerate(workers, 1):
            with contextlib.suppress(subprocess.TimeoutExpired):  # it is killed below
                code = worker.wait(timeout=EXIT_S)
                if code:
                    raise RankFailed(f"the process of rank {rank} ended with code {code}")
    except RuntimeError as fault:  # torch raises it for a lost connection too
        cause = _find_cause(store, workers)
        if cause:
            raise RankFailed(cause) from fault
        raise
    finally:
        torch.set_num_threads(artifact.threads)
        if dist.is_initialized():
            dist.destroy_process_group()
        for worker in workers:
            worker.kill()
            worker.wait()
            if worker.stdin:
                with contextlib.suppress(BrokenPipeError):
                    worker.stdin.close()


def take_part(place: nodes.Place, count: int, processes: int) -> None:
    """Lend this node's share of processes to each training of the first node, until that ends.
    Refuse other code."""
    share = processes // count
    for announcement, text in nodes.follow(place):
        # The first node saves the training, for which it needs all ranks.
        signals.ignore((signal.SIGINT, signal.SIGTERM))
        known = registry.named_targets()
        task = NodeTask.model_validate_json(text)
        unknown = registry.named_targets() - known
        if unknown:
            problem = f"node {place.node + 1} was not given the file of {min(unknown)}"
            nodes.report_failure(announcement, problem)
            raise UserError(f"{problem}: start the same command in the same folder on all nodes")
        if task.code != describe_code():
            problem = f"node {place.node + 1} has {describe_code()}, the first one {task.code}"
            nodes.report_failure(announcement, problem)
            raise UserError(f"{problem}: install the same on all nodes")
        ranks = range(place.node * share, (place.node + 1) * share)
        workers = [
            _start(COMMAND, task, r, card=place.local * share + i) for i, r in enumerate(ranks)
        ]
        for rank, worker in zip(ranks, workers, strict=True):
            code = worker.wait()
            if code:
                nodes.report_failure(
                    announcement, f"the process of rank {rank} ended with code {code}"
                )
                break
        for worker in workers:
            worker.kill()
            worker.wait()


def _start(command: Sequence[str], task: NodeTask, rank: int, card: int) -> subprocess.Popen[str]:
    part = RankTask(**dict(task), rank=rank, card=card)
    environment = EXPANDABLE_SEGMENTS | interpreter.environment()
    worker = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=sys.stderr, text=True, env=environment
    )
    assert worker.stdin
    with contextlib.suppress(BrokenPipeError):  # it has ended already, which a later wait finds
        worker.stdin.write(part.model_dump_json() + "\n")
        worker.stdin.flush()
    return worker


def _find_cause(store: Any, workers: list[subprocess.Popen[str]]) -> str:
    """Find the failure of a rank that may have closed our connection. Return "" if all ranks are
    alive."""
    deadline = time.monotonic() + PATIENCE_S
    while all(worker.poll() is None for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)  # the peers of a killed rank fail too, perhaps before it is reaped
    codes = {rank: code for rank, worker in enumerate(workers, 1) if (code := worker.poll())}
    killed = [rank for rank, code in codes.items() if code < 0]
    if not killed and store.check([FAULT]):
        return str(store.get(FAULT).decode())
    for rank in killed or codes:
        return f"the process of rank {rank} ended with code {codes[rank]}"
    return ""


def _join(
    task: NodeTask,
    store: Any,
    workers: list[subprocess.Popen[str]],
    elsewhere: nodes.Announcement | None,
) -> None:
    """Wait until every rank has connected, or one has failed."""
    artifact = task.artifact
    deadline = time.monotonic() + START_TIMEOUT.total_seconds()
    for rank in range(1, artifact.ranks):
        while not store.check([f"here {rank}"]):
            if rank <= len(workers) and (code := workers[rank - 1].poll()) is not None:
                raise RankFailed(
                    f"the process of rank {rank} ended with code {code} before it began"
                )
            if elsewhere and (problem := elsewhere.failure()):
                raise RankFailed(f"{problem}, before it began")
            if time.monotonic() > deadline:
                raise RankFailed(f"the process of rank {rank} did not begin within {START_TIMEOUT}")
            time.sleep(0.05)
    join(artifact, store, rank=0)


def join(artifact: Artifact, store: Any, rank: int) -> None:
    """Join the process group. NCCL keeps its own timeout, because it does not notice a dead
    rank."""
    kind = "nccl" if artifact.device.startswith("cuda") else "gloo"
    timeout = WAIT_TIMEOUT if kind == "gloo" else None
    dist.init_process_group(
        kind, timeout=timeout, store=store, rank=rank, world_size=artifact.ranks
    )
