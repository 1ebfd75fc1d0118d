"""Several processes on one training, on one machine: workers of the worker, for as long as a method runs.

The worker is rank 0 and starts the others; each makes the same job and calls the same method. What a method does with
ranks is methods.ranks' to say. Under torchrun, on several machines, a method finds its ranks the same way.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from pydantic import BaseModel

from bench.plan.artifact import Artifact
from bench.system import interpreter

HOST = "127.0.0.1"
COMMAND = tuple(interpreter.command("bench.run.rank_worker"))

START_TIMEOUT = timedelta(minutes=10)
"""For a worker to load its model."""


class RankTask(BaseModel):
    """A rank's part of a training, as it reads it from stdin."""

    artifact: Artifact
    rank: int
    port: int


class RankFailed(Exception):
    """A rank's process ended too early."""


@contextlib.contextmanager
def start_ranks(artifact: Artifact, command: Sequence[str] = COMMAND) -> Iterator[None]:
    """Within it, this process is the first of `artifact.processes`. With one process, nothing happens.

    Raises:
        RankFailed: a worker failed though this process did not; its output is on this process's stderr.
    """
    world = artifact.processes
    if world == 1:
        yield
        return
    store = dist.TCPStore(HOST, 0, world, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    workers: list[subprocess.Popen[str]] = []
    try:
        for rank in range(1, world):
            environment = interpreter.environment()
            worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=sys.stderr, text=True, env=environment)
            workers.append(worker)
            assert worker.stdin
            with contextlib.suppress(BrokenPipeError):  # it has ended already: _join says how
                worker.stdin.write(RankTask(artifact=artifact, rank=rank, port=store.port).model_dump_json() + "\n")
                worker.stdin.flush()
        _join(artifact, store, workers)
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


def _join(artifact: Artifact, store: Any, workers: list[subprocess.Popen[str]]) -> None:
    """Wait until every worker is there, or one is known never to be."""
    deadline = time.monotonic() + START_TIMEOUT.total_seconds()
    for rank, worker in enumerate(workers, 1):
        while not store.check([f"here {rank}"]):
            if (code := worker.poll()) is not None:
                raise RankFailed(f"the process of rank {rank} ended with code {code} before it began")
            if time.monotonic() > deadline:
                raise RankFailed(f"the process of rank {rank} did not begin within {START_TIMEOUT}")
            time.sleep(0.05)
    dist.init_process_group(backend(artifact), store=store, rank=0, world_size=artifact.processes)


def backend(artifact: Artifact) -> str:
    return "nccl" if artifact.device.startswith("cuda") else "gloo"


def device(artifact: Artifact, rank: int) -> str:
    """A card of its own for each rank."""
    return f"cuda:{rank}" if artifact.processes > 1 and artifact.device.startswith("cuda") else artifact.device
