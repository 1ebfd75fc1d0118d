"""Seconds and peak bytes of every quantizer on a 2:4 model; the extras too, if they are installed.

Each quantizer runs in another process, so that its peak is its own. The model is pruned by
magnitude first, and with --blocks only its first blocks are targets. "Before" is the peak with the
model and the tokens loaded.

python benchmarks/quantizers.py [--model smollm2-135m-instruct-q4] [--blocks 4] [--rounds 1]
"""

from __future__ import annotations

import copy
import dataclasses
import statistics

import harness
from harness import MODEL, Figures, start

from bench.catalog.entries import QUANTIZERS
from bench.inputs import loading
from bench.system import provenance
from bench.system.devices import cores
from methods.contract.errors import Skipped, UserError

SEQUENCES = 16


def one(name: str, model_name: str, blocks: int, rounds: int) -> Figures:
    """Run a quantizer, and return seconds and bytes."""
    import torch

    from methods.contract.method import Compute, Job
    from methods.contract.pattern import Pattern
    from methods.model.targets import family_of

    torch.set_num_threads(cores())
    found, opened, targets = harness.open_model(model_name)
    if blocks:
        family = family_of(opened.config)
        targets = tuple(t for t in targets if (family.block_of(t) or 0) < blocks)
    tokens = harness.draw_tokens(found.folder, SEQUENCES, min(512, found.seqlen))
    model = loading.load(found.folder, Compute())
    job = Job(source=found.folder, pattern=Pattern(2, 4), targets=targets, calibration=tokens)
    harness.make_method("methods", "magnitude").apply(model, job)
    quantizer = harness.make_method("quantizers", name)
    before, took = provenance.peak_bytes("cpu"), []
    for _ in range(rounds):
        fresh = copy.deepcopy(model) if rounds > 1 else model
        took.append(harness.seconds(lambda m=fresh: quantizer.apply(m, dataclasses.replace(job))))
    peaks = {"peak_bytes": provenance.peak_bytes("cpu"), "peak_bytes_before": before}
    return {"seconds": round(statistics.median(took), 3)} | peaks


def main(model: str = MODEL, blocks: int = 0, rounds: int = 1) -> None:
    harness.like_a_worker()
    figures: Figures = {"model": model, "blocks": blocks or "all", "threads": cores()}
    for name in QUANTIZERS:
        if name != "none":
            try:
                figures[name] = harness.apart(one, name, model, blocks, rounds)
            except (Skipped, UserError) as fault:
                figures[name] = {"skipped": str(fault)}
    harness.finish("quantizers", figures)


if __name__ == "__main__":
    start(main)
