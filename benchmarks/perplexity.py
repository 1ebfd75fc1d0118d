"""Perplexity on smollm2-135m-instruct-q4: ours against a plain transformers loop, time and memory.

Both read the same windows. Every run is another process, because memory peaks once. The plain loop
against itself is the noise.

python benchmarks/perplexity.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from harness import MODEL, apart, figure_of, finish, in_turn, ratio, start

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
BATCH = BATCH_TOKENS // SEQLEN


def plain(model: torch.nn.Module, tokens: torch.Tensor) -> list[float]:
    """Run batches through the whole model, and read the loss from the whole logits."""
    losses: list[float] = []
    with torch.no_grad():
        for part in tokens.split(BATCH):
            logits = model(part, use_cache=False).logits[:, :-1].float().flatten(0, 1)
            targets = part[:, 1:].flatten()
            nll = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
            losses += nll.view(len(part), -1).sum(1).tolist()
    return losses


def ours(model: torch.nn.Module, cut: Windows, context: MeasureContext) -> list[float]:
    reader = WindowLosses(cut)
    run_pass([Participant(lambda: reader)], lambda: model, cut.tokens, BATCH, context)
    return reader.losses


def one(which: str) -> dict[str, float]:
    """Time a pass, and return seconds, peak bytes and the sum of the losses."""
    torch.set_num_threads(cores())
    folder = download.pull(MODEL).folder
    tokenizer = loading.load_tokenizer(folder)
    cut = Windows(*windows.load_windows("wiki-mini", tokenizer, SEQLEN, WINDOWS, None))
    model = loading.load(folder, Compute())
    context = MeasureContext(
        folder=folder, source=folder, is_dense=True, tokenizer=lambda: None,
        load_dense=lambda: model, counts=WeightCounts(Pattern()), compute=Compute(), data_dir=None,
        workdir=Path(), progress=NoProgress(), seed=None,
    )  # fmt: skip
    run: Callable[[], list[float]] = partial(plain, model, cut.tokens)
    if which == "ours":
        run = partial(ours, model, cut, context)
    started = time.perf_counter()
    losses = run()
    took = time.perf_counter() - started
    return {"s": took, "peak": provenance.peak_bytes("cpu"), "nll": sum(losses)}


def main() -> None:
    seen: dict[str, list[dict[str, float]]] = {"ours": [], "plain": [], "plain again": []}

    def go(name: str) -> None:
        seen[name].append(apart(one, name.split()[0]))

    in_turn({name: partial(go, name) for name in seen}, ROUNDS)
    assert abs(seen["ours"][0]["nll"] / seen["plain"][0]["nll"] - 1) < 1e-5
    times = figure_of(seen, "s")
    peaks = {name: median(found) for name, found in figure_of(seen, "peak").items()}
    speed = "plain / ours, tokens per second of ours over plain's"
    figures = {
        "windows": f"{WINDOWS} x {SEQLEN}",
        speed: ratio(times, "plain", "ours"),
        "plain / plain again, the noise": ratio(times, "plain", "plain again"),
        "peak memory, ours / plain": round(peaks["ours"] / peaks["plain"], 3),
    }
    finish("perplexity", figures)


if __name__ == "__main__":
    start(main)
