"""The process of one rank."""

from __future__ import annotations

import os
import signal
import sys
import threading

import torch
import torch.distributed as dist

from bench.run.events import Events
from bench.run.ranks import FAULT, HOST, RankTask, join


def main() -> None:
    """Take part in a stage as another rank than the first; its outcome is dropped."""
    from bench.run.build import Builder

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)  # the first rank decides; this process ends with it
    task = RankTask.model_validate_json(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    artifact = task.artifact
    if artifact.device.startswith("cuda"):
        torch.cuda.set_device(task.rank)
    store = dist.TCPStore(HOST, task.port, artifact.ranks, is_master=False)  # type: ignore[attr-defined]
    store.set(f"here {task.rank}", "1")
    try:
        join(artifact, store, task.rank)
        with open(os.devnull, "w") as nowhere:
            Builder(artifact, Events(nowhere), rank=task.rank).run_as_rank(artifact)
        dist.barrier()
    except Exception as fault:
        if store.add("faults", 1) == 1:  # the others' follow from it
            store.set(FAULT, f"rank {task.rank}: {type(fault).__name__}: {fault}")
        raise
    dist.destroy_process_group()


def _end_with_parent() -> None:
    while os.read(0, 4096):  # not through sys.stdin: a process forked meanwhile could never take its lock
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
