"""AdamS against torch's AdamW on 100 million weights, and a CAST step against distilling with
AdamW.

python benchmarks/adams.py [--rounds 7]
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from harness import finish, in_turn, like_a_worker, ratio, start
from torch import nn
from trained import TokenRates, text, train

from bench.system.devices import cores
from cast.adams import AdamS
from methods.contract.method import Compute
from methods.contract.pattern import Pattern

SHAPES = [(2048, 2048)] * 12 + [(2048, 5632)] * 4  # 96 million
STEPS = 10
"""A round: as many steps as share one choice of the mask."""


def steps_of(optimizer: torch.optim.Optimizer, first: int = 0) -> Callable[[], None]:
    """first: the step a round of AdamS begins at; at a multiple of ten it chooses the mask
    again."""

    def run() -> None:
        if first:
            optimizer.param_groups[0]["step"] = first
        for step in range(STEPS):
            if first % STEPS and step:  # never reach the next choice
                optimizer.param_groups[0]["step"] = first
            optimizer.step()

    return run


def material() -> list[nn.Parameter]:
    params = [nn.Parameter(torch.randn(s)) for s in SHAPES]
    for p in params:
        p.grad = torch.randn_like(p)
    return params


def adams(kernel: str) -> AdamS:
    group = {"params": material(), "sparse": True}
    optimizer = AdamS(
        [group], total=10_000, pattern=Pattern(2, 4), lr=1e-5, lambda_=1e-3, kernel=kernel
    )
    optimizer.step()  # at step 0 nothing is pulled yet; a compiled kernel compiles
    optimizer.param_groups[0]["step"] = 1001
    return optimizer


def adamw(**how: bool) -> torch.optim.AdamW:
    optimizer = torch.optim.AdamW(material(), lr=1e-5, **how)
    optimizer.step()
    return optimizer


def optimizers(rounds: int) -> dict[str, Any]:
    figures: dict[str, Any] = {"weights": sum(a * b for a, b in SHAPES)}
    for kind in ("foreach", "fused"):
        ours, theirs = f"AdamS {'compiled' if kind == 'fused' else kind}", f"AdamW {kind}"
        if kind == "fused" and not shutil.which("c++"):
            figures[f"{ours} / {theirs}"] = "skipped: no C++ compiler"
            continue
        mine, other = adams(kind), adamw(**{kind: True})
        contestants = {
            "AdamS": steps_of(mine, 1001),
            theirs: steps_of(other),
            "AdamS and a mask": steps_of(mine, 1000),
        }
        for work in contestants.values():
            work()
        times = in_turn(contestants, rounds)
        figures[f"{ours} / {theirs}"] = ratio(times, "AdamS", theirs)
        figures[f"{ours}, a mask every ten steps / {theirs}"] = ratio(
            times, "AdamS and a mask", theirs
        )
        state = sum(t.nbytes for s in mine.state.values() for t in s.values())
        figures["bytes of state per weight"] = state / figures["weights"]
    return figures


def cast_step(rounds: int) -> dict[str, Any]:
    """Ten steps of smollm2-135m-instruct-q4 as its recipe on a CPU has them, 8 x 128 tokens, all
    included; one before, which compiles."""
    corpus = text(seqlen=128, sequences=8)
    clocks = {name: TokenRates() for name in ("cast", "dense-ft")}

    def run(name: str, steps: int = STEPS) -> None:
        train(name, {"lr": 1e-5, "eta": 1 / 3}, corpus, steps, Compute(), clocks[name])

    run("cast", steps=1)
    clocks["cast"].rates.clear()
    in_turn({name: partial(run, name) for name in clocks}, rounds)
    seen = {
        name: [corpus.step_tokens / rate for rate in clock.rates] for name, clock in clocks.items()
    }
    return {
        "CAST step / distillation with AdamW, smollm2-135m-instruct-q4, 8 x 128 tokens": ratio(
            seen, "cast", "dense-ft"
        ),
        "seconds": seen,
    }


def main(rounds: int = 7, steps_rounds: int = 3) -> None:
    like_a_worker()
    torch.set_num_threads(cores())
    figures = {"threads": cores()} | optimizers(rounds)
    if steps_rounds:
        figures |= cast_step(steps_rounds)
    finish("adams", figures)


if __name__ == "__main__":
    start(main)
