"""CPU seconds of the shared pass with perplexity and agreement, and with fidelity beside them, on
smollm2-135m-instruct-q4.

Both in turn, in one process on one thread. The dense model's states are known, as for every row but
the first.

python benchmarks/fidelity.py
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

import torch

from bench.inputs import download, loading, windows
from bench.measures.agreement import WindowDistances
from bench.measures.contract import MeasureContext
from bench.measures.forward import BATCH_TOKENS, ForwardPass, forward_windows
from bench.measures.perplexity import WindowLosses
from bench.measures.window_pass import WindowReader, logit_parts
from bench.measures.windowed import Windows
from bench.parts.fidelity.measure import TokenDistances
from bench.verify import WeightCounts
from methods.contract.method import Compute, NoProgress
from methods.contract.pattern import Pattern

MODEL, SEQLEN, WINDOWS, ROUNDS = "smollm2-135m-instruct-q4", 512, 4, 4


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    folder = download.pull(MODEL).folder
    tokenizer = loading.load_tokenizer(folder)
    cut = Windows(*windows.load_windows("wiki-mini", tokenizer, SEQLEN, WINDOWS, None))
    model, compute = loading.load(folder, Compute()), Compute()
    context = MeasureContext(
        folder=folder, source=folder, is_dense=False, tokenizer=lambda: tokenizer,
        load_dense=lambda: model, counts=WeightCounts(Pattern()), compute=compute, data_dir=None,
        workdir=Path(), progress=NoProgress(), seed=None,
    )  # fmt: skip
    size = BATCH_TOKENS // SEQLEN

    def forward() -> ForwardPass:
        return forward_windows(lambda: model, folder, cut.tokens, size, context)

    dense = ForwardPass(list(forward().states), forward().head)

    def seconds(*readers: WindowReader) -> float:
        started = time.process_time()
        for part in logit_parts(forward(), cut.tokens, compute.device, dense):
            for reader in readers:
                reader.take(part)
        for reader in readers:
            reader.finish()
        return time.process_time() - started

    ratios = []
    for _ in range(ROUNDS):
        before = seconds(WindowLosses(cut), WindowDistances(cut))
        after = seconds(WindowLosses(cut), WindowDistances(cut), TokenDistances(cut, tokenizer))
        ratios.append(after / before)
        print(f"{before:.2f} s, with fidelity {after:.2f} s: {after / before:.3f}")
    print(f"median ratio {median(ratios):.3f}")


if __name__ == "__main__":
    main()
