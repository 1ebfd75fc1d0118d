"""AdamS against torch's AdamW on 96 million weights, and a CAST step against AdamW's distillation.

python benchmarks/adams.py [--rounds 7]
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial

import torch
from harness import MODEL, Figures, finish, in_turn, like_a_worker, ratio, start
from torch import nn
from trained import TokenRates, text, train

from bench.system.devices import cores
from cast.adams import AdamS
from methods.contract.method import Compute
from methods.contract.pattern import Pattern

SHAPES = [(2048, 2048)] * 12 + [(2048, 5632)] * 4
STEPS = 10
"""Steps of a round: as many as share one choice of the mask."""


def steps_of(optimizer: torch.optim.Optimizer, first: int = 0) -> Callable[[], None]:
    """Return a round of steps.

    first: step at which a round of AdamS begins. A multiple of ten chooses the mask again.
    """

    def run() -> None:
        for step in range(STEPS):
            # Never reach the next choice of the mask.
            if first and (step == 0 or first % STEPS):
                optimizer.param_groups[0]["step"] = first
            optimizer.step()

    return run


def material() -> list[nn.Parameter]:
    """Return parameters of SHAPES with random gradients."""
    params = [nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def adams(kernel: str) -> AdamS:
    """Return an AdamS after its first step, in which nothing is pulled and a kernel compiles."""
    group = {"params": material(), "sparse": True}
    optimizer = AdamS(
        [group], total=10_000, pattern=Pattern(2, 4), kernel=kernel, lr=1e-5, lambda_=1e-3
    )
    optimizer.step()
    optimizer.param_groups[0]["step"] = 1001
    return optimizer


def adamw(kind: str) -> torch.optim.AdamW:
    """Return an AdamW after its first step."""
    optimizer = torch.optim.AdamW(
        material(), lr=1e-5, foreach=kind == "foreach", fused=kind == "fused"
    )
    optimizer.step()
    return optimizer


def optimizers(rounds: int) -> Figures:
    """Time steps of both optimizers, with each kind of kernel."""
    figures: Figures = {"weights": sum(a * b for a, b in SHAPES)}
    for kind, name in (("foreach", "foreach"), ("fused", "compiled")):
        ours, theirs = f"AdamS {name}", f"AdamW {kind}"
        if kind == "fused" and not shutil.which("c++"):
            figures[f"{ours} / {theirs}"] = "skipped: no C++ compiler"
            continue
        mine = adams(kind)
        contestants = {
            "AdamS": steps_of(mine, 1001),
            theirs: steps_of(adamw(kind)),
            "AdamS and a mask": steps_of(mine, 1000),
        }
        for work in contestants.values():
            work()
        times = in_turn(contestants, rounds)
        with_mask = ratio(times, "AdamS and a mask", theirs)
        figures[f"{ours} / {theirs}"] = ratio(times, "AdamS", theirs)
        figures[f"{ours}, a mask every ten steps / {theirs}"] = with_mask
        state = sum(t.nbytes for s in mine.state.values() for t in s.values())
        figures["bytes of state per weight"] = state / figures["weights"]
    return figures


def cast_step(rounds: int) -> Figures:
    """Time ten steps of MODEL by its recipe on a CPU, after one that compiles."""
    corpus = text(seqlen=128, sequences=8)
    clocks = {name: TokenRates() for name in ("cast", "dense-ft")}

    def run(name: str, steps: int = STEPS) -> None:
        train(name, {"lr": 1e-5, "eta": 1 / 3}, corpus, steps, Compute(), clocks[name])

    run("cast", steps=1)
    clocks["cast"].rates.clear()
    in_turn({name: partial(run, name) for name in clocks}, rounds)
    seen = {}
    for name, clock in clocks.items():
        seen[name] = [corpus.step_tokens / rate for rate in clock.rates]
    label = f"CAST step / distillation with AdamW, {MODEL}, 8 x 128 tokens"
    return {label: ratio(seen, "cast", "dense-ft"), "seconds": seen}


def main(rounds: int = 7, steps_rounds: int = 3) -> None:
    like_a_worker()
    torch.set_num_threads(cores())
    figures = {"threads": cores()} | optimizers(rounds)
    if steps_rounds:
        figures |= cast_step(steps_rounds)
    finish("adams", figures)


if __name__ == "__main__":
    start(main)
