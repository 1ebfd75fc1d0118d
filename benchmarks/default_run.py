"""Compare the default run on tiny with an earlier commit: seconds, memory, and equal numbers.

Both run in turn, each with its cache, which holds the corpus. Both get the `--methods` of the
earlier default. Today's default, which has CAST, is timed too.

python benchmarks/default_run.py COMMIT [--rounds 3]
"""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from harness import ROOT, Figures, finish, fresh_cache, in_turn, open_model, ratio, seconds, start

from bench.measures.forward import BATCH_TOKENS as PASS_TOKENS
from bench.measures.forward import LOGITS_BYTES
from bench.results.store import ReadOnlyStore
from bench.system.devices import cores

ONE_SHOT = (
    "--methods magnitude,wanda,sparsegpt --set=perplexity.windows=256 --set=zeroshot.limit=200"
)
FORWARD = ("perplexity", "agreement", "zeroshot")
"""Measures that are forward passes."""
MIB = 2**20


@contextlib.contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """Make a worktree of this repository at `commit`, and remove it when the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "before"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def run(tree: Path, results: Path, flags: str = "", watch: bool = False) -> dict[str, float]:
    """Run `bench run` with a fresh cache. With `watch`, return the memory of its processes."""
    words = [*["-m", "bench", "run", "--device", "cpu"], *flags.split(), "--results", str(results)]
    with tempfile.TemporaryDirectory() as folder:
        environment = fresh_cache(Path(folder))
        environment |= {"PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(
            [sys.executable, *words],
            cwd=tree,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        watcher = _Watcher(process.pid) if watch else None
        if process.wait():
            raise SystemExit(f"bench run in {tree} ended with code {process.returncode}")
        return watcher.figures() if watcher else {}


class _Watcher(threading.Thread):
    """Memory of a process and its descendants (PSS: shared pages are divided among them)."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._process, self._whole, self._worker = psutil.Process(pid), 0, 0
        self.start()

    def run(self) -> None:
        with contextlib.suppress(psutil.Error):
            while self._process.is_running():
                sizes = []
                for process in [self._process, *self._process.children(recursive=True)]:
                    with contextlib.suppress(psutil.Error):
                        sizes.append(process.memory_full_info())
                self._whole = max(self._whole, sum(size.pss for size in sizes))
                self._worker = max([self._worker, *(size.rss for size in sizes[1:])])
                time.sleep(0.25)

    def figures(self) -> dict[str, float]:
        self.join(timeout=5)
        return {
            "one thread: memory of all processes, MiB": round(self._whole / MIB),
            "one thread: memory of the largest process, MiB": round(self._worker / MIB),
        }


def numbers(results: Path) -> dict[str, Any]:
    """Return the status, every reading and every item's score by identity."""
    store, found = ReadOnlyStore(results), {}
    for record in store:
        i, scores = record.identity, None
        if record.items:
            items = store.items(record)
            scores = [x.tolist() for x in (*items[:3], *items.columns.values())]
        readings = [(r.metric, r.value, r.stderr, r.n) for r in record.readings]
        name = f"{i.method} {i.pattern} {i.quantizer} {i.seed} {i.measure} {i.protocol.label}"
        found[name] = record.status, readings, scores
    return found


def seconds_by_part(results: Path, whole: float) -> dict[str, float]:
    """Split the seconds of a run into building, each measure's forward passes, and the rest.

    The rest is processes, loading, checking and the table.
    """
    parts = dict.fromkeys((*FORWARD, "building"), 0.0)
    for record in ReadOnlyStore(results):
        if record.identity.measure in FORWARD:
            parts[record.identity.measure] += record.cost.get("wall_s", 0.0)
        parts["building"] += record.cost.get("build_s", 0.0)
    parts = {"whole": whole, "starting and the rest": whole - sum(parts.values())} | parts
    return {f"{name}, seconds": round(value, 1) for name, value in parts.items()}


def floor_seconds(results: Path) -> float:
    """Return the seconds of the matrix products of all forward passes.

    Products have this machine's rate for their shapes. Attention, norms, softmax, loading and
    everything else are left out.
    """
    import torch

    torch.set_num_threads(cores())
    _, folder, targets = open_model("tiny")
    shapes = folder.shapes()
    products = [_product_seconds(torch, PASS_TOKENS, *shapes[f"{t}.weight"]) for t in targets]
    linears = sum(products) / PASS_TOKENS
    vocabulary, hidden = shapes["model.embed_tokens.weight"]
    rows = LOGITS_BYTES // (4 * vocabulary)
    head = _product_seconds(torch, rows, vocabulary, hidden) / rows
    total = 0.0
    for record in ReadOnlyStore(results):
        measure, tokens = record.identity.measure, record.cost.get("tokens", 0)
        if measure == "zeroshot":
            # Its head runs for a few tokens only.
            total += tokens * linears
        elif measure == "agreement":
            # In one pass with perplexity, with the dense model's head beside its own.
            heads = 1 if record.identity.method == "dense" else 2
            total += tokens * (linears + head * heads)
    return total


def _product_seconds(torch: Any, rows: int, outputs: int, inputs: int) -> float:
    """Return the seconds of the fastest of several products."""
    x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    return min(seconds(lambda: torch.nn.functional.linear(x, weight)) for _ in range(7))


def main(commit: str, rounds: int = 3) -> None:
    with checkout(commit) as before, tempfile.TemporaryDirectory() as folder:
        trees, room = {"before": before, "now": ROOT}, Path(folder)

        def go(name: str) -> None:
            shutil.rmtree(room / name, ignore_errors=True)
            run(trees.get(name, ROOT), room / name, "" if name == "with CAST" else ONE_SHOT)

        times = in_turn({name: partial(go, name) for name in (*trees, "with CAST")}, rounds)
        parts = {}
        for name, took in times.items():
            parts[name] = seconds_by_part(room / name, statistics.median(took))
        forward = sum(parts["now"][f"{name}, seconds"] for name in FORWARD)
        floor = floor_seconds(room / "now")
        memory, found = {}, {}
        for name, tree in trees.items():
            one = room / f"one thread {name}"
            memory[name] = run(tree, one, f"{ONE_SHOT} --set threads=1", watch=True)
            found[name] = numbers(one)
    old, new = found["before"], found["now"]
    figures: Figures = {
        "threads": cores(),
        "now / before, the same 12 rows": ratio(times, "now", "before"),
        "now with CAST's 3 rows / before, 12 rows": ratio(times, "with CAST", "before"),
        f"at {commit}": parts["before"] | memory["before"],
        "now": parts["now"] | memory["now"],
        "now with CAST": parts["with CAST"],
        "forward passes, now, seconds": round(forward, 1),
        "matrix products of these alone, seconds": round(floor, 1),
        "share of matrix products": f"{floor / forward:.0%}",
        "measurements with one thread": len(old),
    }
    names = old.keys() | new.keys()
    figures["of these different now"] = sorted(n for n in names if old.get(n) != new.get(n))
    finish("default_run", figures)


if __name__ == "__main__":
    start(main)
