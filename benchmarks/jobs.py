"""A sweep of tiny, one artifact at a time over two at a time. Every artifact has one thread.

From the command to its end: start, plan, processes and records are in the time. Each has its cache,
which holds the corpus.

python benchmarks/jobs.py [--rounds 3]
"""

from __future__ import annotations

import statistics
import tempfile
from functools import partial
from pathlib import Path

from harness import Figures, call, finish, fresh_cache, in_turn, ratio, start

from bench.system.devices import cores

SWEEP = "run --methods magnitude,wanda,sparsegpt --device cpu --set threads=1"


def run(jobs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        environment = fresh_cache(Path(folder))
        place = ("--results", f"{folder}/results")
        call("bench", f"{SWEEP} --jobs {jobs}", *place, environment=environment)


def main(rounds: int = 3) -> None:
    times = in_turn({"one": partial(run, 1), "two": partial(run, 2)}, rounds)
    figures: Figures = {"cores": cores()}
    for name, took in times.items():
        figures[f"{name} at a time, seconds"] = round(statistics.median(took), 1)
    finish("jobs", figures | {"one at a time / two at a time": ratio(times, "one", "two")})


if __name__ == "__main__":
    start(main)
