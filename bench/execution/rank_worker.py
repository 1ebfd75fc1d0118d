"""The process of one rank."""

from __future__ import annotations

import os
import sys
import threading
import time

import torch
import torch.distributed as dist

from bench.execution import signals
from bench.execution.descendants import end_with_stdin
from bench.execution.events import Events
from bench.execution.nodes import LOOK_S
from bench.execution.ranks import FAULT, HOST, RankTask, join


def main() -> None:
    """Take part in a stage as a rank after the first, and drop the outcome."""
    from bench.execution.build import Builder

    signals.ignore()  # this process ends with the first rank
    task = RankTask.model_validate_json(sys.stdin.readline())
    threading.Thread(target=end_with_stdin, daemon=True).start()
    if task.host != HOST:
        threading.Thread(target=_end_with_first, args=(task,), daemon=True).start()
    artifact = task.artifact
    if artifact.device.startswith("cuda"):
        torch.cuda.set_device(task.card)
    store = dist.TCPStore(task.host, task.port, artifact.ranks, is_master=False)  # type: ignore[attr-defined]
    store.set(f"here {task.rank}", "1")
    try:
        join(artifact, store, task.rank)
        with open(os.devnull, "w") as nowhere:
            Builder(artifact, Events(nowhere), card=task.card).run_as_rank(artifact)
        dist.barrier()
    except Exception as fault:
        if store.add("faults", 1) == 1:  # the first fault causes the others
            store.set(FAULT, f"rank {task.rank}: {type(fault).__name__}: {fault}")
        raise
    dist.destroy_process_group()


def _end_with_first(task: RankTask) -> None:
    """End this process when the store of the first rank, which is on another node, is gone."""
    store = dist.TCPStore(task.host, task.port, task.artifact.ranks, is_master=False)  # type: ignore[attr-defined]
    try:
        while True:
            store.check(["here 0"])
            time.sleep(LOOK_S)
    except RuntimeError:
        os._exit(1)


if __name__ == "__main__":
    main()
