"""Seconds and peak bytes of every quantizer on a 2:4 model; the extras too, where their libraries
are.

Each quantizer runs in another process, so that its peak is its own. The model is pruned by
magnitude first, and with --blocks only its first blocks are targets. "Before" is the peak with the
model and the tokens loaded.

python benchmarks/quantizers.py [--model smollm2-135m-instruct-q4] [--blocks 4] [--rounds 1]
"""

from __future__ import annotations

import copy
import dataclasses
import statistics
from typing import Any

from harness import apart, draw_tokens, finish, like_a_worker, seconds, start

from bench.catalog import registry
from bench.catalog.choice import build
from bench.catalog.entries import QUANTIZERS
from bench.inputs import download, loading
from bench.system import provenance
from bench.system.devices import cores
from methods.contract.errors import Skipped, UserError

SEQUENCES = 16


def one(name: str, model_name: str, blocks: int, rounds: int) -> dict[str, Any]:
    """Run a quantizer, and return seconds and bytes."""
    import torch

    from methods.contract.method import Compute, Job
    from methods.contract.pattern import Pattern
    from methods.model.targets import family_of, find_targets

    torch.set_num_threads(cores())
    found = download.pull(model_name)
    opened = found.open()
    family = family_of(opened.config)
    targets = find_targets(opened.config, opened.shapes())
    if blocks:
        targets = tuple(t for t in targets if (family.block_of(t) or 0) < blocks)
    tokens = draw_tokens(found.folder, SEQUENCES, min(512, found.seqlen))
    model = loading.load(found.folder, Compute())
    job = Job(source=found.folder, pattern=Pattern(2, 4), targets=targets, calibration=tokens)
    build(registry.lookup("methods", "magnitude"), "magnitude", {}).apply(model, job)
    quantizer = build(registry.lookup("quantizers", name), name, {})
    before, took = provenance.peak_bytes("cpu"), []
    for _ in range(rounds):
        fresh = copy.deepcopy(model) if rounds > 1 else model
        took.append(seconds(lambda fresh=fresh: quantizer.apply(fresh, dataclasses.replace(job))))  # type: ignore[misc]
    return {
        "seconds": round(statistics.median(took), 3),
        "peak_bytes": provenance.peak_bytes("cpu"),
        "peak_bytes_before": before,
    }


def main(model: str = "smollm2-135m-instruct-q4", blocks: int = 0, rounds: int = 1) -> None:
    like_a_worker()
    figures: dict[str, Any] = {"model": model, "blocks": blocks or "all", "threads": cores()}
    for name in QUANTIZERS:
        if name != "none":
            try:
                figures[name] = apart(one, name, model, blocks, rounds)
            except (Skipped, UserError) as fault:
                figures[name] = {"skipped": str(fault)}
    finish("quantizers", figures)


if __name__ == "__main__":
    start(main)
