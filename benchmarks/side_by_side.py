"""Two processes of as many threads as there are cores, beside each other, over one alone.

First a loop of matrix products of SmolLM2's sizes, with threads that spin as OpenMP has them, as
bench's workers do, and not at all. Then two whole `bench run` of tiny in different results folders
over one.

python benchmarks/side_by_side.py [--rounds 3]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from harness import Figures, finish, fresh_cache, in_turn, ratio, start

from bench.execution.processes import SHORT_SPIN
from bench.system.devices import cores

LOOP = """
import sys, torch
torch.set_num_threads(int(sys.argv[1]))
shapes = ((576, 1536), (1536, 576), (576, 576), (576, 192), (192, 576))
weights = [torch.randn(*shape) for shape in shapes]
inputs = {k: torch.randn(512, k) for k in (576, 1536, 192)}
for _ in range(int(sys.argv[2])):
    for weight in weights:
        inputs[weight.shape[0]] @ weight
    torch.softmax(inputs[1536], -1)
    torch.nn.functional.silu(inputs[1536])
    inputs[576] * inputs[576]
"""
STEPS = 600
WAYS = {"OpenMP's spin": {}, "short spin": SHORT_SPIN, "no spin": {"OMP_WAIT_POLICY": "passive"}}
RUN = "-m bench run --methods magnitude --quant none,int8 --device cpu --results"


def loops(count: int, environment: dict[str, str]) -> None:
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    command = [sys.executable, "-c", LOOP, str(cores()), str(STEPS)]
    together([subprocess.Popen(command, env=clean | environment) for _ in range(count)])


def runs(count: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        started = []
        for room in [Path(folder) / str(number) for number in range(count)]:
            command = [sys.executable, *RUN.split(), str(room / "results")]
            started.append(
                subprocess.Popen(
                    command,
                    env=fresh_cache(room),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
        together(started)


def together(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.wait():
            raise SystemExit(f"{process.args!r} ended with code {process.returncode}")


def main(rounds: int = 3) -> None:
    contestants: dict[str, Callable[[], None]] = {}
    for count in (1, 2):
        contestants |= {f"{way}, {count}": partial(loops, count, e) for way, e in WAYS.items()}
        contestants[f"bench run, {count}"] = partial(runs, count)
    times = in_turn(contestants, rounds)
    figures: Figures = {"threads": cores()}
    figures |= {f"two loops / one, {way}": ratio(times, f"{way}, 2", f"{way}, 1") for way in WAYS}
    for way in list(WAYS)[1:]:
        lone = ratio(times, f"{way}, 1", "OpenMP's spin, 1")
        figures[f"one loop: {way} / OpenMP's spin"] = lone
    figures["two bench runs / one"] = ratio(times, "bench run, 2", "bench run, 1")
    finish("side_by_side", figures)


if __name__ == "__main__":
    start(main)
