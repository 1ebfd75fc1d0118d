"""Several processes on one stage, for as long as a method runs: workers of the worker, and of other nodes.

The worker is rank 0 and starts the others of its node; each makes the same job and calls the same method. What a method does
with ranks is methods.training.ranks' to say, and for a calibration methods.pruning.sharing's. Under torchrun without this
suite a method finds its ranks the same way.
"""

from __future__ import annotations

import contextlib
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

from bench.execution import nodes, signals
from bench.planning.artifact import Artifact
from bench.system import interpreter
from bench.system.code_version import describe_code
from methods.errors import UserError

HOST = "127.0.0.1"
COMMAND = tuple(interpreter.command("bench.execution.rank_worker"))

START_TIMEOUT = timedelta(minutes=10)
"""For a worker to load its model."""
WAIT_TIMEOUT = timedelta(days=1)
"""For what one rank computes while others wait: on a CPU, an hour for a large layer. A rank that dies is noticed at once."""
PATIENCE_S = 2.0
"""For a worker that has failed to have ended, where a fault here may come from it."""
EXIT_S = 60.0
"""For a worker that has done its part to end."""
FAULT = "fault"
"""The store's entry for what the first worker that failed raised."""


class NodeTask(BaseModel):
    """A training, as other nodes are told of it."""

    artifact: Artifact
    host: str
    port: int
    """Of the store by which its processes find each other."""
    code: str
    """This package's version and code: all nodes must run the same."""


class RankTask(BaseModel):
    """A rank's part of a stage, as it reads it from stdin."""

    artifact: Artifact
    rank: int
    card: int
    """Of its machine, where there are any."""
    host: str
    port: int


def _make_store(host: str, world: int) -> dist.TCPStore:  # type: ignore[name-defined]
    """Where the processes meet. On one machine no other can reach it: whoever does may set any entry."""
    place = socket.create_server((HOST, 0)) if host == HOST else None
    port, handle = (place.getsockname()[1], place.detach()) if place else (0, None)
    return dist.TCPStore(host, port, world, is_master=True, wait_for_workers=False, master_listen_fd=handle)  # type: ignore[attr-defined]


class RankFailed(Exception):
    """A rank's process ended too early."""


@contextlib.contextmanager
def start_ranks(artifact: Artifact, command: Sequence[str] = COMMAND) -> Iterator[None]:
    """Within it, this process is the first of `artifact.ranks`, which its nodes have in equal parts. With one process,
    nothing happens.

    Raises:
        RankFailed: a worker failed, and with it this process or not; the worker's output is on this process's stderr.
    """
    world = artifact.ranks
    if world == 1:
        yield
        return
    host = nodes.first_host() if artifact.spread > 1 else HOST
    store = _make_store(host, world)
    task = NodeTask(artifact=artifact, host=host, port=store.port, code=describe_code())
    workers: list[subprocess.Popen[str]] = []
    torch.set_num_threads(threads(artifact))
    try:
        elsewhere = nodes.announce(task.model_dump_json()) if artifact.spread > 1 else None
        for rank in range(1, world // artifact.spread):
            workers.append(_start(command, task, rank, card=rank))
        _join(task, store, workers, elsewhere)
        yield
        dist.barrier()
        dist.destroy_process_group()
        for rank, worker in enumerate(workers, 1):
            with contextlib.suppress(subprocess.TimeoutExpired):  # it has done its part, and is killed below
                if code := worker.wait(timeout=EXIT_S):
                    raise RankFailed(f"the process of rank {rank} ended with code {code}")
    except RuntimeError as fault:  # as a lost connection is one
        if cause := _find_cause(store, workers):
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
    """Lend this node's share of the processes of each training that the first node begins, until it ends.

    Raises:
        UserError: it runs other code.
        ConnectionError: it is gone.
    """
    share = processes // count
    for announcement, text in nodes.follow(place):
        signals.ignore(
            (signal.SIGINT, signal.SIGTERM)
        )  # the first node saves the training, for which it needs all ranks
        task = NodeTask.model_validate_json(text)
        if task.code != describe_code():
            problem = f"node {place.node + 1} has {describe_code()}, the first one {task.code}"
            nodes.report_failure(announcement, problem)
            raise UserError(f"{problem}: install the same on all nodes")
        ranks = range(place.node * share, (place.node + 1) * share)
        workers = [_start(COMMAND, task, r, card=place.local * share + i) for i, r in enumerate(ranks)]
        for rank, worker in zip(ranks, workers, strict=True):
            if code := worker.wait():
                nodes.report_failure(announcement, f"the process of rank {rank} ended with code {code}")
                break
        for worker in workers:
            worker.kill()
            worker.wait()


def _start(command: Sequence[str], task: NodeTask, rank: int, card: int) -> subprocess.Popen[str]:
    part = RankTask(artifact=task.artifact, rank=rank, card=card, host=task.host, port=task.port)
    worker = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=sys.stderr, text=True, env=interpreter.environment()
    )
    assert worker.stdin
    with contextlib.suppress(BrokenPipeError):  # it has ended already: who waits for it is told
        worker.stdin.write(part.model_dump_json() + "\n")
        worker.stdin.flush()
    return worker


def _find_cause(store: Any, workers: list[subprocess.Popen[str]]) -> str:
    """What a worker did that may have been felt here as a lost connection; "" where all of them live."""
    deadline = time.monotonic() + PATIENCE_S
    while all(worker.poll() is None for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)  # a killed one's peers fail, too: which may have been quicker
    codes = {rank: code for rank, worker in enumerate(workers, 1) if (code := worker.poll())}
    killed = [rank for rank, code in codes.items() if code < 0]
    if not killed and store.check([FAULT]):
        return str(store.get(FAULT).decode())
    for rank in killed or codes:
        return f"the process of rank {rank} ended with code {codes[rank]}"
    return ""


def _join(
    task: NodeTask, store: Any, workers: list[subprocess.Popen[str]], elsewhere: nodes.Announcement | None
) -> None:
    """Wait until every worker is there, or one is known never to be."""
    artifact = task.artifact
    deadline = time.monotonic() + START_TIMEOUT.total_seconds()
    for rank in range(1, artifact.ranks):
        while not store.check([f"here {rank}"]):
            if rank <= len(workers) and (code := workers[rank - 1].poll()) is not None:
                raise RankFailed(f"the process of rank {rank} ended with code {code} before it began")
            if elsewhere and (problem := elsewhere.failure()):
                raise RankFailed(f"{problem}, before it began")
            if time.monotonic() > deadline:
                raise RankFailed(f"the process of rank {rank} did not begin within {START_TIMEOUT}")
            time.sleep(0.05)
    join(artifact, store, rank=0)


def join(artifact: Artifact, store: Any, rank: int) -> None:
    """Become one of an artifact's ranks. On a card, NCCL ends a wait by its own limit, since it does not notice a death."""
    kind = backend(artifact)
    timeout = WAIT_TIMEOUT if kind == "gloo" else None
    dist.init_process_group(kind, timeout=timeout, store=store, rank=rank, world_size=artifact.ranks)


def threads(artifact: Artifact) -> int:
    """Of each rank: they share the artifact's."""
    return max(1, artifact.threads * artifact.spread // artifact.ranks)


def backend(artifact: Artifact) -> str:
    return "nccl" if artifact.device.startswith("cuda") else "gloo"


def device(artifact: Artifact, card: int) -> str:
    """A card of its own for each rank. card: which of its machine."""
    return f"cuda:{card}" if artifact.most_ranks > 1 and artifact.device.startswith("cuda") else artifact.device
