"""Run by test_ranks: train each task on several processes, write what came out."""

import gc
import shutil
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from bench.inputs import loading
from helpers.forked_ranks import run_ranks
from helpers.models import build, exact, job_for, mean_float64
from helpers.trainings import counting, job_to_train, method
from methods.contract.method import Budget, Compute
from methods.workshop.training import gather, trainer
from methods.workshop.training.interrupt import Stopped, stop_request
from methods.workshop.training.trainer import Trainer

STEPS = 12
STOPS_AFTER = 6
NOTED_EVERY = 3
RATE = {"relative_lr": 0.15}
"""The scale of weights is a sum over the shards."""


class Stopping:
    """A progress that asks for a stop in the middle, as a signal does, on one rank alone."""

    def advance(self, done, total, **metrics):
        if done == STOPS_AFTER and dist.get_rank() == dist.get_world_size() - 1:
            stop_request.signal = 15


def train(name, family, out, work, stopping, **fields):
    model = build(family) if fields else exact(family)
    more = {"progress": Stopping()} if stopping else {}
    more |= {"steps": STEPS, "budget": {"log_every": NOTED_EVERY}} | fields
    job = job_to_train(model, job_for, counting(), work, **more)
    try:
        outcome = method(name, **RATE).apply(model, job)
    except Stopped:
        assert stopping
        stop_request.reset()
        return
    if dist.get_rank() == 0:
        shutil.copytree(outcome.model, out / "model")
        model.config.save_pretrained(out / "model")
        losses = [str(row["loss"]) for row in outcome.notes["curve"]]
        (out / "curve.txt").write_text("\n".join(losses))


class Memory:
    """The most that this process took for itself while the thread ran, without pages of files."""

    def __enter__(self):
        gc.collect()
        self.start = self.peak = _own_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self):
        while not self._done.wait(0.002):
            self.peak = max(self.peak, _own_bytes())

    def __exit__(self, *fault):
        self._done.set()
        self._thread.join()
        self.taken = self.peak - self.start


def _own_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def measure(folder, out):
    """Measure the memory that loading, sharding and writing of student and teacher add."""
    gather.SHARD_BYTES = 2**23
    compute = Compute(is_shared=True)
    with Memory() as build:
        model = loading.load(folder, compute)
        text = counting()
        fields = {"training": text, "budget": Budget(tokens=text.step_tokens), "compute": compute}
        teacher = lambda: loading.load(folder, compute)  # noqa: E731
        job = job_for(model, workdir=out / "work", teacher=teacher, **fields)
        training = Trainer("dense-ft", model, job, method("dense-ft"))
        teacher = training._load_teacher()
    with Memory() as end:
        training.finalize()
    del teacher
    (out / f"memory-{dist.get_rank()}.txt").write_text(f"{build.taken} {end.taken}")


def round_rows(pair, home):
    """Train in bfloat16. Weights are gathered rounded or, in the folder "whole", in float32."""
    for kind in ("rounded", "whole"):
        out = home / kind
        out.mkdir(parents=True, exist_ok=True)
        gathered = []
        with pytest.MonkeyPatch.context() as patch:
            if kind == "whole":
                patch.setattr(trainer, "rounded_rows", lambda *_: ())
            newer = "all_gather_single"  # FSDP's from torch 2.13 on
            name = newer if hasattr(dist, newer) else "all_gather_into_tensor"
            gather = getattr(dist, name)

            def count(output_tensor, input_tensor, _gather=gather, _bytes=gathered, **options):
                _bytes.append(input_tensor.nbytes)
                return _gather(output_tensor, input_tensor, **options)

            patch.setattr(dist, name, count)
            compute = Compute(dtype=torch.bfloat16)
            train(*pair.split(","), out, out / "work", stopping=False, compute=compute)
        if dist.get_rank() == 0:
            (out / "bytes.txt").write_text(str(sum(gathered)))
        dist.barrier()


def main(world: str, out: str, *tasks: str) -> None:
    """Do tasks: "method,family", "stop=method,family", "resume=method,family", "memory=FOLDER",
    "round=method,family"."""
    run_ranks(int(world), work, Path(out), *tasks)


def work(out: Path, *tasks: str) -> None:
    if not any(task.startswith(("memory=", "round=")) for task in tasks):
        mean_float64(pytest.MonkeyPatch())
    for task in tasks:
        kind, _, pair = task.rpartition("=")
        if kind == "memory":
            measure(Path(pair), out)
        elif kind == "round":
            round_rows(pair, out / pair)
        else:
            home = out / kind / pair
            train(*pair.split(","), home, home / "work", stopping=kind == "stop")
        dist.barrier()
