"""Run by test_ranks: train each task on several processes, write what came out."""

import gc
import shutil
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from bench.inputs import loading
from helpers.forked_ranks import run_ranks
from helpers.models import build, exact, job_for, mean_float64
from helpers.trainings import counting, job_to_train, method
from methods.contract.method import Budget, Compute
from methods.workshop.training import gather, saver, trainer, training_checkpoint
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


class Killed(Exception):
    """The end of a training without a last checkpoint."""


class Killing:
    """A progress that ends the training on all ranks, one note after its last checkpoint."""

    def advance(self, done, total, **metrics):
        if done == STOPS_AFTER + NOTED_EVERY:
            raise Killed


def train(name, family, out, work, progress=None, checkpoint_s=300, **fields):
    model = build(family) if fields else exact(family)
    more = {"progress": progress} if progress else {}
    budget = {"log_every": NOTED_EVERY, "checkpoint_s": checkpoint_s}
    more |= {"steps": STEPS, "budget": budget} | fields
    job = job_to_train(model, job_for, counting(), work, **more)
    try:
        outcome = method(name, **RATE).apply(model, job)
    except (Stopped, Killed):
        assert progress
        stop_request.reset()
        return
    if dist.get_rank() == 0:
        shutil.copytree(outcome.model, out / "model")
        model.config.save_pretrained(out / "model")
        losses = [str(row["loss"]) for row in outcome.notes["curve"]]
        (out / "curve.txt").write_text("\n".join(losses))


def resume_after_kill(pair, home):
    """Train with threads that write late, end without a last checkpoint, and go on."""
    real_write, real_gradients = training_checkpoint.write, Trainer._gradients
    newest, ended = [0], []

    def gradients(trainer, step, teacher):
        newest.append(step)
        return real_gradients(trainer, step, teacher)

    def write(root, step, *state):
        # The training has changed the weights when they are written.
        while newest[-1] <= step:
            time.sleep(0.001)
        ended.append(step)
        return real_write(root, step, *state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saver, "is_written_beside", lambda tensors: True)
        patch.setattr(training_checkpoint, "write", write)
        patch.setattr(Trainer, "_gradients", gradients)
        # On a busy machine a state of the next step would wait for the thread, and it for the step.
        patch.setattr(trainer, "SLOW_STEP_S", float("inf"))
        train(*pair.split(","), home, home / "work", Killing(), checkpoint_s=0)
    assert ended == [1, NOTED_EVERY, STOPS_AFTER], ended
    assert training_checkpoint.latest(home / "work").name == f"step-{STOPS_AFTER}"
    train(*pair.split(","), home, home / "work")


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
            train(*pair.split(","), out, out / "work", compute=compute)
        if dist.get_rank() == 0:
            (out / "bytes.txt").write_text(str(sum(gathered)))
        dist.barrier()


def main(world: str, out: str, *tasks: str) -> None:
    """Do tasks: "method,family", "stop=method,family", "resume=method,family",
    "kill=method,family", "memory=FOLDER", "round=method,family"."""
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
        elif kind == "kill":
            resume_after_kill(pair, out / kind / pair)
        else:
            home = out / kind / pair
            train(*pair.split(","), home, home / "work", Stopping() if kind == "stop" else None)
        dist.barrier()
