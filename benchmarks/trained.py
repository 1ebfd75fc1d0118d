"""Seconds a step and peak bytes of every method that trains, on all of smollm2-135m-instruct-q4.

Steps as the model's recipe has them on a CPU (8 x 128 tokens of wiki-mini), with the recipe's
settings; 2:4, float32 and, as a run with --dtype bfloat16 has it, bfloat16 autocast; all cores.
Each figure is from another process, after one step that compiles and warms up. The perplexities
before and after a training are not counted. The masks that `retrain` holds and `maskllm` starts
from are magnitude's. What a whole recipe costs is a step's seconds times its 800 steps.

python benchmarks/trained.py [--methods cast,retrain] [--steps 3] [--dtypes float32,bfloat16]
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import (
    MODEL,
    Figures,
    apart,
    finish,
    like_a_worker,
    magnitude_masks,
    make_method,
    open_model,
    split,
    start,
)

from bench.catalog.entries import METHODS
from bench.inputs import download
from bench.planning import recipes
from bench.system import provenance
from bench.system.devices import cores
from methods.contract.info import Does
from methods.contract.pattern import Pattern

PARAMETERS, PATTERN = 135_000_000, "2:4"
# finetune takes a model that is sparse already.
TRAINED = [n for n, entry in METHODS.items() if "training" in entry.needs and n != "finetune"]


@dataclass
class TokenRates:
    """The trainer's progress: tokens per second."""

    rates: list[float] = field(default_factory=list)

    def advance(self, done: int, total: int, **figures: float) -> None:
        self.rates.append(figures["tokens_per_s"])


def text(seqlen: int, sequences: int) -> Any:
    """Return wiki-mini, in steps of this many sequences."""
    from bench.inputs import loading, training_text

    tokenizer = loading.load_tokenizer(download.pull(MODEL).folder)
    found, _ = training_text.load(
        "wiki-mini", tokenizer, "benchmark", need=0, seqlen=seqlen, sequences=sequences, seed=0,
        data_dir=None,
    )  # fmt: skip
    return found


def train(
    name: str, settings: Mapping[str, Any], corpus: Any, steps: int, compute: Any, clock: TokenRates
) -> None:
    """Train the model with a method. `retrain` and `maskllm` get magnitude's masks."""
    from bench.inputs import loading
    from methods.contract.method import Budget, Job, Prior

    found, _, targets = open_model()
    model, prior, pattern = loading.load(found.folder, compute), None, Pattern.parse(PATTERN)
    if name in ("retrain", "maskllm"):
        masks = magnitude_masks(model, targets, pattern)
        prior = Prior(folder=found.folder, masks=masks)
    with tempfile.TemporaryDirectory() as room:
        job = Job(
            source=found.folder,
            pattern=Pattern() if METHODS[name].does & Does.LEAVES_DENSE else pattern,
            targets=targets,
            training=corpus,
            workdir=Path(room),
            prior=prior,
            budget=Budget(tokens=steps * corpus.step_tokens),
            compute=compute,
            progress=clock,
            teacher=lambda: loading.load(found.folder, compute),
        )
        make_method("methods", name, settings).apply(model, job)


def one(name: str, steps: int, dtype: str) -> Figures:
    """Train with a method, and return seconds and megabytes."""
    import torch

    from methods.contract.method import Compute

    torch.set_num_threads(cores())
    recipe, clock = recipes.choose(PARAMETERS, "cpu"), TokenRates()
    corpus = text(recipe.seqlen, recipe.batch)
    compute = Compute(threads=cores(), dtype=getattr(torch, dtype))
    for count in (1, steps):
        train(name, recipe.methods.get(name, {}), corpus, count, compute, clock)
    took = round(corpus.step_tokens / clock.rates[-1], 2)
    return {"seconds a step": took, "peak MB": round(provenance.peak_bytes("cpu") / 1e6)}


def main(
    methods: str = ",".join(TRAINED), steps: int = 3, dtypes: str = "float32,bfloat16"
) -> None:
    like_a_worker()
    recipe = recipes.choose(PARAMETERS, "cpu")
    step = f"{recipe.batch} x {recipe.seqlen} tokens"
    figures: Figures = {"a step": step, "pattern": PATTERN}
    figures |= {"threads": cores(), "steps timed": steps}
    for name in split(methods, TRAINED):
        figures[name] = {dtype: apart(one, name, steps, dtype) for dtype in dtypes.split(",")}
    finish("trained", figures)


if __name__ == "__main__":
    start(main)
