"""The gain of a second process in a training: CAST on `tiny`, one process against two.

A process has one thread. One process of two threads is compared, too.

python benchmarks/ranks.py [--rounds 3]
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from harness import Figures, finish, ratio, start

FEW, MANY = 20, 80
STEP = 32 * 128  # tokens


def seconds_per_step(results: Path, threads: int, processes: int, seed: int) -> float:
    """Return seconds per step from two trainings of different length, so that start-up cancels."""
    import bench

    took = []
    for steps in (FEW, MANY):
        spec = bench.Spec(
            methods=("cast",), quantizers=("none",), measures=("size",), seeds=(seed,),
            threads=threads, results=results,
            training={"tokens": steps * STEP, "batch": 32, "seqlen": 128, "processes": processes},
        )  # fmt: skip
        bench.run(spec)
        took.append(_build_seconds(results, steps * STEP))
    return (took[1] - took[0]) / (MANY - FEW)


def _build_seconds(results: Path, tokens: int) -> float:
    from bench.results.store import ReadOnlyStore

    for record in ReadOnlyStore(results):
        training = record.key_inputs.get("training") or {}
        if training.get("tokens") == tokens and "build_s" in record.cost:
            return float(record.cost["build_s"])
    raise RuntimeError(f"no training of {tokens} tokens in {results}")


def main(rounds: int = 3) -> None:
    times: dict[str, list[float]] = {"one": [], "two": [], "threads": []}
    with tempfile.TemporaryDirectory() as room:
        os.environ["CAST_BENCH_CACHE"] = str(Path(room) / "cache")
        for i in range(rounds):
            for name, threads, processes in (("one", 1, 1), ("two", 2, 2), ("threads", 2, 1)):
                results = Path(room) / f"{name}-{i}"
                times[name].append(seconds_per_step(results, threads, processes, i))
    figures: Figures = {
        "model": "tiny",
        "a step": "32 x 128 tokens",
        "one process of one thread / two of one thread each": ratio(times, "one", "two"),
        "one process of one thread / one of two threads": ratio(times, "one", "threads"),
    }
    finish("ranks", figures)


if __name__ == "__main__":
    start(main)
