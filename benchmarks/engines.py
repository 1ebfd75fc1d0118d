"""A whole model in engines of this CPU, in turn, by threads, on its best instructions and on AVX2.

python benchmarks/engines.py --prepare  compile decoding steps and export to ONNX, in some minutes
python benchmarks/engines.py            measure: about ten minutes on a quiet machine

The records go to results/speed-engines, as `bench speed --engine` writes them. Timings that are
there are not measured again. The table has all records of this kernel and of the model that are
there, so that paths can be measured one at a time. Ratios are over the blocks that were timed in
turn. The noise of each is the same model timed a second time in each block. The times of shapes in
results/speed-shapes, which docs/results.md shows, are of folders that `bench prune` made from
SmolLM2:

python benchmarks/engines.py --paths best --results results/speed-shapes --sparse FOLDER \\
    --others 'depth 25%=FOLDER' 'width 33%=FOLDER'

llama.cpp chooses its instructions when it is built, so it is timed on AVX2 if $LLAMA_CPP_AVX2 names
the folder of a build for it.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
from pathlib import Path

from harness import MODEL, ROOT, finish, say

from bench.catalog import registry
from bench.inputs import models
from bench.parts.packed24 import native
from bench.parts.speed import engine_report, time_models
from bench.parts.speed.engines import onnx_runtime
from bench.parts.speed.engines.contract import Engine, Step
from bench.parts.speed.versions import DENSE, ModelVersions
from bench.results.record import Record
from bench.results.store import ReadOnlyStore
from bench.system.cache import temporary_folder
from bench.system.devices import KERNEL_PATH, cores

RECORDS = ROOT / "results" / "speed-engines"
LLAMA_CPP_AVX2 = "LLAMA_CPP_AVX2"


def environment(path: str) -> dict[str, str]:
    """Return the variables that limit a process to a path of the kernel, or leave it the best."""
    if path == "best":
        return dict(os.environ)
    limits = {KERNEL_PATH: path, "ATEN_CPU_CAPABILITY": path, "ONEDNN_MAX_CPU_ISA": path.upper()}
    if folder := os.environ.get(LLAMA_CPP_AVX2, ""):
        limits |= {"LLAMA_CPP_LIB_PATH": folder, "LD_LIBRARY_PATH": folder}
    return os.environ | limits


def prepare(given: argparse.Namespace) -> None:
    """Compile and export what the timing needs."""
    model = models.resolve(given.model)
    if model is None:
        sys.exit(f"model {given.model!r} is not here: bench pull {given.model}")
    with temporary_folder("engines") as room:
        sparse = models.resolve(given.sparse) if given.sparse else None
        turn = {"": ModelVersions(model, room, sparse)}
        for name, folder in (one.split("=", 1) for one in given.others):
            other = models.resolve(folder)
            if other is None:
                sys.exit(f"model {folder!r} is not here: bench pull {folder}")
            turn[name] = ModelVersions(other, room, sides=(DENSE,))
        for engine, (name, versions) in itertools.product(given.engines, turn.items()):
            say(f"preparing {engine} {name}")
            if engine == "onnxruntime":
                versions.onnx(DENSE, onnx_runtime.DTYPE)
            elif engine in ("native", "torch"):
                step = Step("decode", 1, given.tokens)
                registry.build("engines", engine, Engine).contestants(versions, step, "cpu", 1)


def measure(given: argparse.Namespace) -> None:
    """Time the engines with a number of threads."""
    others = dict(other.split("=", 1) for other in given.others)
    what = (given.model, "cpu", int(given.threads), given.engines, (given.tokens,), None)
    request = time_models.ModelTimingRequest(*what, given.sparse, given.steps, others)
    for _ in time_models.measure(request, given.results, say):
        pass


def _kernel(record: Record) -> str:
    """Return the digest of the native kernel that was timed in turn with a record, or none."""
    digest: str = record.key_inputs.get("in_turn", {}).get("native", {}).get("kernel", "")
    return digest


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    threads = ",".join(str(n) for n in (1, 2) if n <= cores())
    asked.add_argument("--model", default=MODEL)
    asked.add_argument("--engines", default="native,llamacpp", type=_words)
    asked.add_argument("--threads", default=threads)
    asked.add_argument("--paths", default="best,avx2", type=_words)
    asked.add_argument("--sparse", help="a 2:4 version of the model, else its largest weights")
    asked.add_argument(
        "--others", nargs="*", default=[], metavar="NAME=FOLDER", help="dense models, in turn too"
    )
    asked.add_argument("--steps", default="decode,prefill", type=_words)
    asked.add_argument("--tokens", type=int, default=time_models.CPU_TOKENS)
    asked.add_argument("--results", type=Path, default=RECORDS)
    asked.add_argument("--prepare", action="store_true")
    asked.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = asked.parse_args()
    if given.here:
        prepare(given) if given.prepare else measure(given)
        return
    # If a flag is given twice, the last one counts.
    again = [sys.executable, __file__, *sys.argv[1:], "--here"]
    for path in given.paths:
        timed = list(given.engines)
        if path != "best" and not os.environ.get(LLAMA_CPP_AVX2):
            timed = [engine for engine in timed if engine != "llamacpp"]
        for count in ("1",) if given.prepare else given.threads.split(","):
            say(f"{path} instructions, {count} thread(s)")
            command = [*again, "--engines", ",".join(timed), "--threads", count]
            subprocess.run(command, env=environment(path), stdout=subprocess.DEVNULL, check=True)
    # The table is of one folder.
    if not given.prepare and given.results == RECORDS:
        tabulate(given)


def tabulate(given: argparse.Namespace) -> None:
    """Save the figures of all records of this kernel."""
    store = ReadOnlyStore(given.results)
    kernel = native.source_digest() if "native" in given.engines else ""
    records, versions, loads = [], {}, []
    for record in store:
        model = record.notes.get("beside", record.identity.model)
        if model == given.model and _kernel(record) == kernel:
            records.append(record)
            loads.append(record.notes["load"])
            about = [f"{k} {v}" for k, v in record.notes["engine"].items() if k != "name"]
            versions[record.identity.protocol.engine] = ", ".join(about)
    load = round(max(loads), 1)
    beside = {"model": given.model, "running processes before a timing, at most": load}
    found = engine_report.entries(records, store.items)
    name = "engines" if given.model == MODEL else f"engines-{given.model}"
    finish(name, beside | engine_report.figures(found) | versions)


if __name__ == "__main__":
    main()
