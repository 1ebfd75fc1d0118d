"""Perplexity on smollm2-135m-instruct-q4: ours against a plain transformers loop, seconds and peak
memory, on the same windows.

Every run is another process, because memory peaks once. The plain loop against itself is the noise.

python benchmarks/perplexity.py
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import torch
from harness import apart, finish, in_turn, ratio, start

from bench.inputs import download, loading, windows
from bench.measures.contract import MeasureContext
from bench.measures.forward import BATCH_TOKENS
from bench.measures.perplexity import WindowLosses
from bench.measures.window_pass import Participant, run_pass
from bench.measures.windowed import Windows
from bench.system import provenance
from bench.system.devices import cores
from bench.verify import WeightCounts
from methods.contract.method import Compute, NoProgress
from methods.contract.pattern import Pattern

SEQLEN, WINDOWS, ROUNDS = 512, 8, 3


def plain(model: torch.nn.Module, tokens: torch.Tensor) -> list[float]:
    """Run batches through the whole model, and read the loss from the whole logits."""
    losses: list[float] = []
    with torch.no_grad():
        for part in tokens.split(BATCH_TOKENS // SEQLEN):
            logits = model(part, use_cache=False).logits[:, :-1].float()
            nll = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), part[:, 1:].flatten(), reduction="none"
            )
            losses += nll.view(len(part), -1).sum(1).tolist()
    return losses


def ours(model: torch.nn.Module, windows: Windows, context: MeasureContext) -> list[float]:
    reader = WindowLosses(windows)
    run_pass(
        [Participant(lambda: reader)],
        lambda: model,
        windows.tokens,
        BATCH_TOKENS // SEQLEN,
        context,
    )
    return reader.losses


def one(which: str) -> dict[str, float]:
    """Time a pass, and return seconds, peak bytes and the sum of the losses."""
    torch.set_num_threads(cores())
    folder = download.pull("smollm2-135m-instruct-q4").folder
    cut = Windows(
        *windows.load_windows("wiki-mini", loading.load_tokenizer(folder), SEQLEN, WINDOWS, None)
    )
    model = loading.load(folder, Compute())
    context = MeasureContext(
        folder=folder, source=folder, is_dense=True, tokenizer=lambda: None,
        load_dense=lambda: model, counts=WeightCounts(Pattern()), compute=Compute(), data_dir=None,
        workdir=Path(), progress=NoProgress(), seed=None,
    )  # fmt: skip
    run = {
        "ours": lambda: ours(model, cut, context),
        "plain": lambda: plain(model, cut.tokens),
    }[which]
    started = time.perf_counter()
    losses = run()
    return {
        "s": time.perf_counter() - started,
        "peak": provenance.peak_bytes("cpu"),
        "nll": sum(losses),
    }


def main() -> None:
    seen: dict[str, list[dict[str, float]]] = {"ours": [], "plain": [], "plain again": []}

    def go(name: str) -> None:
        seen[name].append(apart(one, name.split()[0]))

    in_turn({name: lambda n=name: go(n) for name in seen}, ROUNDS)
    assert abs(seen["ours"][0]["nll"] / seen["plain"][0]["nll"] - 1) < 1e-5
    times = {name: [run["s"] for run in runs] for name, runs in seen.items()}
    peaks = {name: median(run["peak"] for run in runs) for name, runs in seen.items()}
    finish(
        "perplexity",
        {
            "windows": f"{WINDOWS} x {SEQLEN}",
            "plain / ours, tokens per second of ours over plain's": ratio(times, "plain", "ours"),
            "plain / plain again, the noise": ratio(times, "plain", "plain again"),
            "peak memory, ours / plain": round(peaks["ours"] / peaks["plain"], 3),
        },
    )


if __name__ == "__main__":
    start(main)
