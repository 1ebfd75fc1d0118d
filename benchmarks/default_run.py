"""Compare the default run on tiny with an earlier commit: seconds, their parts, memory, and equal
numbers.

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
from pathlib import Path
from typing import Any

import psutil
from harness import finish, fresh_cache, in_turn, ratio, seconds, start

from bench.inputs import download
from bench.measures.forward import BATCH_TOKENS as PASS_TOKENS
from bench.measures.forward import LOGITS_BYTES
from bench.results.store import ReadOnlyStore
from bench.system.devices import cores
from methods.model.folder import Folder
from methods.model.targets import find_targets

ROOT = Path(__file__).parent.parent
ONE_SHOT = (
    "--methods",
    "magnitude,wanda,sparsegpt",
    "--set=perplexity.windows=256",
    "--set=zeroshot.limit=200",
)
FORWARD = ("perplexity", "agreement", "zeroshot")
"""Measures that are forward passes."""
MIB = 2**20


@contextlib.contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """Make a worktree of this repository at `commit`, and remove it when the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "before"
        subprocess.run(
            ["git", "worktree", "add", "--quiet", "--detach", str(tree), commit],
            cwd=ROOT,
            check=True,
        )
        try:
            yield tree
        finally:
            subprocess.run(
                ["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True
            )


def run(tree: Path, results: Path, *flags: str, watch: bool = False) -> dict[str, float]:
    """Time a `bench run` with a fresh cache. With `watch`, the largest memory of all its processes
    together."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "bench",
                "run",
                "--device",
                "cpu",
                *flags,
                "--results",
                str(results),
            ],
            cwd=tree,
            env=fresh_cache(Path(folder)) | {"PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        watcher = _Watcher(process.pid) if watch else None
        if process.wait():
            raise SystemExit(f"bench run in {tree} ended with code {process.returncode}")
        return watcher.figures() if watcher else {}


class _Watcher(threading.Thread):
    """Memory of a process and its descendants: shared pages are divided among those that share them
    (PSS)."""

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
        i, items = record.identity, store.items(record) if record.items else None
        name = f"{i.method} {i.pattern} {i.quantizer} {i.seed} {i.measure} {i.protocol.label}"
        scores = [x.tolist() for x in (*items[:3], *items.columns.values())] if items else None
        found[name] = (
            record.status,
            [(r.metric, r.value, r.stderr, r.n) for r in record.readings],
            scores,
        )
    return found


def seconds_by_part(results: Path, whole: float) -> dict[str, float]:
    """Split the seconds of a run: building, each measure's forward passes, and what is left:
    processes, loading, checking, the table."""
    parts = dict.fromkeys((*FORWARD, "building"), 0.0)
    for record in ReadOnlyStore(results):
        if record.identity.measure in FORWARD:
            parts[record.identity.measure] += record.cost.get("wall_s", 0.0)
        parts["building"] += record.cost.get("build_s", 0.0)
    parts = {"whole": whole, "starting and the rest": whole - sum(parts.values())} | parts
    return {f"{name}, seconds": round(value, 1) for name, value in parts.items()}


def floor_seconds(results: Path) -> float:
    """Matrix products alone of all forward passes over windows and questions, at this machine's
    rate for their shapes.

    Without attention, norms, softmax, loading and everything else.
    """
    import torch

    torch.set_num_threads(cores())
    folder = Folder(download.pull("tiny").folder)
    shapes = folder.shapes()
    targets = find_targets(folder.config, shapes)
    linears = (
        sum(_product_seconds(torch, PASS_TOKENS, *shapes[f"{name}.weight"]) for name in targets)
        / PASS_TOKENS
    )
    vocabulary, hidden = shapes["model.embed_tokens.weight"]
    rows = LOGITS_BYTES // (4 * vocabulary)
    head = _product_seconds(torch, rows, vocabulary, hidden) / rows
    total = 0.0
    for record in ReadOnlyStore(results):
        tokens = record.cost.get("tokens", 0)
        if record.identity.measure == "zeroshot":
            total += tokens * linears  # its head runs for a few tokens only
        # In one pass with perplexity, the dense model's head beside it.
        elif record.identity.measure == "agreement":
            total += tokens * (linears + head * (1 if record.identity.method == "dense" else 2))
    return total


def _product_seconds(torch: Any, rows: int, outputs: int, inputs: int) -> float:
    """Return the seconds of the fastest of several products."""
    x, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
    return min(seconds(lambda: torch.nn.functional.linear(x, weight)) for _ in range(7))


def main(commit: str, rounds: int = 3) -> None:
    with checkout(commit) as before, tempfile.TemporaryDirectory() as folder:
        trees = {"before": before, "now": ROOT}
        results = {name: Path(folder) / name for name in (*trees, "with CAST")}

        def go(name: str) -> None:
            shutil.rmtree(results[name], ignore_errors=True)
            flags = () if name == "with CAST" else ONE_SHOT
            run(trees.get(name, ROOT), results[name], *flags)

        times = in_turn({name: lambda name=name: go(name) for name in results}, rounds)
        parts = {
            name: seconds_by_part(results[name], statistics.median(times[name])) for name in results
        }
        forward = sum(parts["now"][f"{name}, seconds"] for name in FORWARD)
        floor = floor_seconds(results["now"])
        memory = {
            name: run(
                tree,
                Path(folder) / f"one thread {name}",
                *ONE_SHOT,
                "--set",
                "threads=1",
                watch=True,
            )
            for name, tree in trees.items()
        }
        old, new = (numbers(Path(folder) / f"one thread {name}") for name in trees)
    finish(
        "default_run",
        {
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
            "of these different now": sorted(
                name for name in old.keys() | new.keys() if old.get(name) != new.get(name)
            ),
        },
    )


if __name__ == "__main__":
    start(main)
