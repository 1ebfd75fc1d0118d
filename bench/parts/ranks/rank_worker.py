"""The process of one rank."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from bench.execution import signals
from bench.execution.descendants import end_with_stdin
from bench.parts.ranks.nodes import LOOK_S

if TYPE_CHECKING:
    from bench.parts.ranks.ranks import RankTask


def main() -> None:
    """Take part in a stage as a rank after the first, and drop the outcome."""
    signals.ignore()  # this process ends with the first rank
    end_with_stdin()
    # Imported here, because an import of torch can outlast the first rank.
    import torch
    import torch.distributed as dist

    from bench.execution.build import Builder
    from bench.execution.job import Silent
    from bench.parts.ranks.ranks import FAULT, HOST, RankTask, join

    task = RankTask.model_validate_json(sys.stdin.readline())
    if task.host != HOST:
        threading.Thread(target=_end_with_first, args=(task,), daemon=True).start()
    artifact = task.artifact
    if artifact.device.startswith("cuda"):
        torch.cuda.set_device(task.card)
    store = dist.TCPStore(task.host, task.port, artifact.ranks, is_master=False)  # type: ignore[attr-defined]
    store.set(f"here {task.rank}", "1")
    try:
        join(artifact, store, task.rank)
        Builder(artifact, Silent(), card=task.card).run_as_rank(artifact)
        dist.barrier()
    except Exception as fault:
        if store.add("faults", 1) == 1:  # the first fault causes the others
            store.set(FAULT, f"rank {task.rank}: {type(fault).__name__}: {fault}")
        raise
    dist.destroy_process_group()


def _end_with_first(task: RankTask) -> None:
    """End this process when the store of the first rank, which is on another node, is gone."""
    import torch.distributed as dist

    store = dist.TCPStore(task.host, task.port, task.artifact.ranks, is_master=False)  # type: ignore[attr-defined]
    try:
        while True:
            store.check(["here 0"])
            time.sleep(LOOK_S)
    except RuntimeError:
        os._exit(1)


if __name__ == "__main__":
    main()
