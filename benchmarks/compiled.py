"""A distillation step with eager blocks and with blocks compiled by torch.compile, in turn.

The step is that of `Settings.compile`: forward of the teacher, forward and backward, without the
optimizer, in float32, with one thread and random tokens. Times are CPU time. The seconds of the
first compiled step are beside them.

python benchmarks/compiled.py [--rounds 10]
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import MODEL, Figures, finish, in_turn, like_a_worker, ratio, seconds, start

from bench.inputs import download, loading
from methods.contract.method import Compute
from methods.workshop.training import compiled
from methods.workshop.training.distill import Distillation
from methods.workshop.training.loss import Outputs, head_of

SHAPES = {"tiny": (8, 128), MODEL: (4, 128)}
"""Sequences and tokens of a step."""


def step(folder: Path, tokens: torch.Tensor, *, compile_them: bool) -> Callable[[], float]:
    """Return a step of a student that equals its teacher. It returns the loss."""
    student: Any = loading.load(folder, Compute(dtype=torch.float32))
    teacher: Any = copy.deepcopy(student)
    student.requires_grad_(True)
    if compile_them:
        compiled.compile_blocks(student)
        compiled.compile_blocks(teacher)

    def run() -> float:
        x, y = tokens[:, :-1], tokens[:, 1:].flatten()
        with torch.no_grad():
            target = teacher.model(x, use_cache=False).last_hidden_state.flatten(0, 1)
        hidden = student.model(x, use_cache=False).last_hidden_state.flatten(0, 1)
        known = Outputs(target, head_of(teacher).weight)
        own = Outputs(hidden, head_of(student).weight)
        loss, _, _ = Distillation(1 / 3)(own, y, known, 1 / len(y))
        student.zero_grad(set_to_none=True)
        loss.backward()
        return float(loss)

    return run


def main(rounds: int = 10) -> None:
    like_a_worker()
    torch.set_num_threads(1)
    figures: Figures = {"threads": 1}
    figures["processor's best for torch"] = torch.backends.cpu.get_cpu_capability()
    for name, (batch, seqlen) in SHAPES.items():
        folder = download.pull(name).folder
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(0, 1000, (batch, seqlen + 1), generator=generator)
        contestants = {
            "eager": step(folder, tokens, compile_them=False),
            "compiled": step(folder, tokens, compile_them=True),
        }
        first = seconds(contestants["compiled"], time.perf_counter)
        losses = {kind: work() for kind, work in contestants.items()}
        times = in_turn(contestants, rounds, time.process_time)
        figures[name] = {
            "tokens in a step": batch * seqlen,
            "first compiled step, seconds": round(first),
            "tokens/s eager": round(batch * seqlen / min(times["eager"])),
            "tokens/s compiled": round(batch * seqlen / min(times["compiled"])),
            "eager / compiled": ratio(times, "eager", "compiled"),
            "loss, eager - compiled": losses["eager"] - losses["compiled"],
        }
    finish("compiled", figures)


if __name__ == "__main__":
    start(main)
