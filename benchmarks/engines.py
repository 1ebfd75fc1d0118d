"""A whole model in each engine that this CPU has, in turn: ours, torch, ONNX Runtime and llama.cpp.

python benchmarks/engines.py --prepare             export the model to ONNX, which need not be done on a quiet machine
python benchmarks/engines.py [--threads N]         measure: some minutes on a quiet machine

The records go to results/speed-engines, as `bench speed --engine` writes them; what is there already is not measured again.
Ratios are over the blocks that were timed in turn; the noise of each is the same model timed a second time in each block.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness import RESULTS, finish

from bench.execution import time_models
from bench.execution.engines import onnx_runtime
from bench.execution.versions import DENSE, ModelVersions
from bench.inputs import models
from bench.reporting import engines
from bench.results.store import ReadOnlyStore
from bench.system.cache import temporary_folder
from bench.system.devices import cores

ENGINES = ("native", "torch", "onnxruntime", "llamacpp")
RECORDS = RESULTS.parent / "speed-engines"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--model", default="smollm2-135m-instruct-q4")
    asked.add_argument("--threads", type=int, default=cores())
    asked.add_argument("--tokens", type=int, default=time_models.CPU_TOKENS)
    asked.add_argument("--results", type=Path, default=RECORDS)
    asked.add_argument("--prepare", action="store_true")
    given = asked.parse_args()
    if given.prepare:
        model = models.resolve(given.model)
        if model is None:
            asked.error(f"model {given.model!r} is not here: bench pull {given.model}")
        with temporary_folder("engines") as room:
            say(str(ModelVersions(model, room).onnx(DENSE, onnx_runtime.DTYPE)))
        return
    request = time_models.ModelTimingRequest(given.model, "cpu", given.threads, ENGINES, (given.tokens,), None)
    records = list(time_models.measure(request, given.results, say))
    found = engines.entries(records, ReadOnlyStore(given.results).items)
    about = {r.identity.protocol.engine: r.notes["engine"] for r in records}
    versions = {name: ", ".join(f"{k} {v}" for k, v in e.items() if k != "name") for name, e in about.items()}
    finish("engines", {"model": given.model} | engines.figures(found) | versions)


if __name__ == "__main__":
    main()
