"""Everything about speed that waits for a CUDA card, in one command: tests, shape tables, whole models, a figure.

python benchmarks/cuda.py [--results DIR]

What is recorded already is not measured again, so that it can be stopped and called once more.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

SHAPES = ("llama2-7b", "smollm2-135m")
WHOLE = ("smollm2-135m",)
"""llama2-7b, too, where it has been pulled: its weights are gated."""


def steps(results: Path) -> list[list[str]]:
    out = [[sys.executable, "-m", "pytest", "-n", "0", "-m", "cuda", "tests"]]
    for model in SHAPES:
        drawn = ["--figure", str(results / f"{model}.svg")]
        out.append(_bench("speed", "--model", model, "--device", "cuda", "--results", str(results), *drawn))
    for model in (*WHOLE, *(["llama2-7b"] if _is_here("llama2-7b") else [])):
        asked = ["--methods", "magnitude", "--quant", "none", "--measures", "speed", "--dtype", "bfloat16"]
        out.append(_bench("run", "--model", model, *asked, "--device", "cuda", "--results", str(results)))
    return [*out, _bench("report", "--results", str(results))]


def _bench(*words: str) -> list[str]:
    return [sys.executable, "-m", "bench", *words]


def _is_here(model: str) -> bool:
    from bench.inputs import models

    return models.resolve(model, None) is not None


def main() -> int:
    asked = argparse.ArgumentParser()
    asked.add_argument("--results", type=Path, default=Path("results/speed-cuda"))
    results = asked.parse_args().results
    if not torch.cuda.is_available():
        print("skipped: no CUDA device")
        return 0
    worst = 0
    for step in steps(results):
        print(">", *step, flush=True)
        worst = max(worst, subprocess.run(step, check=False).returncode)
    return worst


if __name__ == "__main__":
    sys.exit(main())
