"""Several processes on one training, for as long as a method runs: workers of the worker, and of other nodes.

The worker is rank 0 and starts the others of its node; each makes the same job and calls the same method. What a method
does with ranks is methods.training.ranks' to say. Under torchrun without this suite a method finds its ranks the same way.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from pydantic import BaseModel

from bench.plan.artifact import Artifact
from bench.run import nodes
from bench.system import interpreter
from bench.system.code_version import describe_code
from methods.errors import UserError

HOST = "127.0.0.1"
COMMAND = tuple(interpreter.command("bench.run.rank_worker"))

START_TIMEOUT = timedelta(minutes=10)
"""For a worker to load its model."""


class NodeTask(BaseModel):
    """A training, as other nodes are told of it."""

    artifact: Artifact
    host: str
    port: int
    """Of the store by which its processes find each other."""
    code: str
    """This package's version and code: all nodes must run the same."""


class RankTask(BaseModel):
    """A rank's part of a training, as it reads it from stdin."""

    artifact: Artifact
    rank: int
    card: int
    """Of its machine, where there are any."""
    host: str
    port: int


class RankFailed(Exception):
    """A rank's process ended too early."""


@contextlib.contextmanager
def start_ranks(artifact: Artifact, command: Sequence[str] = COMMAND) -> Iterator[None]:
    """Within it, this process is the first of `artifact.processes`, which its nodes have in equal parts. With one process,
    nothing happens.

    Raises:
        RankFailed: a worker failed though this process did not; its output is on this process's stderr.
    """
    world = artifact.processes
    if world == 1:
        yield
        return
    host = nodes.first_host() if artifact.nodes > 1 else HOST
    store = dist.TCPStore(host, 0, world, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    task = NodeTask(artifact=artifact, host=host, port=store.port, code=describe_code())
    workers: list[subprocess.Popen[str]] = []
    try:
        elsewhere = nodes.announce(task.model_dump_json()) if artifact.nodes > 1 else None
        for rank in range(1, world // artifact.nodes):
            workers.append(_start(command, task, rank, card=rank))
        _join(task, store, workers, elsewhere)
        yield
        dist.barrier()
        dist.destroy_process_group()
        for rank, worker in enumerate(workers, 1):
            if code := worker.wait(timeout=60):
                raise RankFailed(f"the process of rank {rank} ended with code {code}")
    finally:
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
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(
                signum, signal.SIG_IGN
            )  # the first node saves the training, which takes all; then this one ends
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


def _join(
    task: NodeTask, store: Any, workers: list[subprocess.Popen[str]], elsewhere: nodes.Announcement | None
) -> None:
    """Wait until every worker is there, or one is known never to be."""
    artifact = task.artifact
    deadline = time.monotonic() + START_TIMEOUT.total_seconds()
    for rank in range(1, artifact.processes):
        while not store.check([f"here {rank}"]):
            if rank <= len(workers) and (code := workers[rank - 1].poll()) is not None:
                raise RankFailed(f"the process of rank {rank} ended with code {code} before it began")
            if elsewhere and (problem := elsewhere.failure()):
                raise RankFailed(f"{problem}, before it began")
            if time.monotonic() > deadline:
                raise RankFailed(f"the process of rank {rank} did not begin within {START_TIMEOUT}")
            time.sleep(0.05)
    dist.init_process_group(backend(artifact), store=store, rank=0, world_size=artifact.processes)


def backend(artifact: Artifact) -> str:
    return "nccl" if artifact.device.startswith("cuda") else "gloo"


def device(artifact: Artifact, card: int) -> str:
    """A card of its own for each rank. card: which of its machine."""
    return f"cuda:{card}" if artifact.processes > 1 and artifact.device.startswith("cuda") else artifact.device
