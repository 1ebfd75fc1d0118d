"""A sweep of tiny, an artifact at a time, over the same sweep with two at a time; every artifact
has one thread.

From the command to its end: start, plan, processes and records are in the time. Each has its cache,
which holds the corpus.

python benchmarks/jobs.py [--rounds 3]
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from harness import call, finish, fresh_cache, in_turn, ratio, start

from bench.system.devices import cores

SWEEP = "run --methods magnitude,wanda,sparsegpt --device cpu --set threads=1"


def run(jobs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        call(
            "bench",
            f"{SWEEP} --jobs {jobs}",
            "--results",
            f"{folder}/results",
            environment=fresh_cache(Path(folder)),
        )


def main(rounds: int = 3) -> None:
    times = in_turn({"one": lambda: run(1), "two": lambda: run(2)}, rounds)
    taken = {
        f"{name} at a time, seconds": round(statistics.median(times[name]), 1) for name in times
    }
    finish(
        "jobs",
        {"cores": cores(), **taken, "one at a time / two at a time": ratio(times, "one", "two")},
    )


if __name__ == "__main__":
    start(main)
