"""Run by torchrun from test_ranks: train each pair on two processes, write what came out."""

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from helpers.models import exact, job_for, mean_float64, write
from helpers.trainings import counting, job_to_train, method


def main(out: Path, *pairs: str) -> None:
    """out: a folder. pairs: "method,family", each of which leaves a folder of that name in it."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mean_float64(pytest.MonkeyPatch())
    for pair in pairs:
        name, family = pair.split(",")
        model = exact(family)
        job = job_to_train(model, job_for, counting(), out / pair / "work", steps=12)
        outcome = method(name).apply(model, job)
        if dist.get_rank() == 0:
            (out / pair / "model").mkdir(parents=True)
            write(outcome.model, out / pair / "model")
            (out / pair / "curve.txt").write_text("\n".join(str(row["loss"]) for row in outcome.notes["curve"]))
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
