"""Several processes on one training, on one machine: helpers of the worker, for as long as a method runs.

The worker is rank 0 and starts the others; each makes the same job and calls the same method. What a method does with
ranks is methods.ranks' to say. Under torchrun, on several machines, a method finds its ranks the same way.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from pydantic import BaseModel

from bench.plan.artifact import Artifact

HERE = "127.0.0.1"

PATIENCE = timedelta(minutes=10)
"""For a helper to load its model."""


class RankTask(BaseModel):
    """What a helper is told, on its stdin."""

    artifact: Artifact
    rank: int
    port: int


class RankFailed(Exception):
    """A helper ended before its time."""


@contextlib.contextmanager
def start_ranks(artifact: Artifact) -> Iterator[None]:
    """Within it, this process is the first of `artifact.processes`. With one process, nothing happens.

    Raises:
        Lost: a helper failed though this process did not; its words are on this process's stderr.
    """
    world = artifact.processes
    if world == 1:
        yield
        return
    store = dist.TCPStore(HERE, 0, world, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    helpers = []
    for rank in range(1, world):
        helper = subprocess.Popen(
            [sys.executable, "-m", "bench.run.rank_worker"], stdin=subprocess.PIPE, stdout=sys.stderr, text=True
        )
        helpers.append(helper)
        assert helper.stdin
        helper.stdin.write(RankTask(artifact=artifact, rank=rank, port=store.port).model_dump_json() + "\n")
        helper.stdin.flush()
    try:
        _join(artifact, store, helpers)
        yield
        dist.barrier()
        dist.destroy_process_group()
        for rank, helper in enumerate(helpers, 1):
            if code := helper.wait(timeout=60):
                raise RankFailed(f"the helper of rank {rank} ended with code {code}")
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        for helper in helpers:
            helper.kill()
            helper.wait()
            if helper.stdin:
                helper.stdin.close()


def _join(artifact: Artifact, store: Any, helpers: list[subprocess.Popen[str]]) -> None:
    """Wait until every helper is there, or one is known never to be."""
    deadline = time.monotonic() + PATIENCE.total_seconds()
    for rank, helper in enumerate(helpers, 1):
        while not store.check([f"here {rank}"]):
            if (code := helper.poll()) is not None:
                raise RankFailed(f"the helper of rank {rank} ended with code {code} before it began")
            if time.monotonic() > deadline:
                raise RankFailed(f"the helper of rank {rank} did not begin within {PATIENCE}")
            time.sleep(0.05)
    dist.init_process_group(backend(artifact), store=store, rank=0, world_size=artifact.processes)


def backend(artifact: Artifact) -> str:
    return "nccl" if artifact.device.startswith("cuda") else "gloo"


def device(artifact: Artifact, rank: int) -> str:
    """A card of its own for each rank."""
    return f"cuda:{rank}" if artifact.processes > 1 and artifact.device.startswith("cuda") else artifact.device
