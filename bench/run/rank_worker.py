"""The process of one rank."""

from __future__ import annotations

import os
import sys
import threading

import torch
import torch.distributed as dist

from bench.run.ranks import HERE, RankTask, backend


def main() -> None:
    """A helper: the same stage as rank 0's, its outcome dropped."""
    from bench.run.build import Builder
    from bench.run.events import Events

    post = RankTask.model_validate_json(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    artifact = post.artifact
    if artifact.device.startswith("cuda"):
        torch.cuda.set_device(post.rank)
    store = dist.TCPStore(HERE, post.port, artifact.processes, is_master=False)  # type: ignore[attr-defined]
    store.set(f"here {post.rank}", "1")
    dist.init_process_group(backend(artifact), store=store, rank=post.rank, world_size=artifact.processes)
    with open(os.devnull, "w") as nowhere:
        Builder(artifact, Events(nowhere), rank=post.rank).help(artifact)
    dist.barrier()
    dist.destroy_process_group()


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
