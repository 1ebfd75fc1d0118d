"""One token through a linear on the CPU: our 2:4 kernel, the same kernel dense, and torch's bfloat16 linear.

python benchmarks/decode.py [--rounds N] [--clock wall|cpu]

Weights take turns from copies that together are larger than the last cache. Beside the median of the rounds' ratios
stands the ratio of the fastest of each, which a busy machine moves less. The limit by bytes: 16/9 for bfloat16, 8/5 for int8.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import cycle
from typing import Any

import torch
from harness import finish, in_turn, ratio
from torch.nn.functional import linear

from bench import kernel24, native
from methods.packed24 import Packed, pack, unpack
from methods.pattern import Pattern

SHAPES = ((4096, 4096), (11008, 4096))
BYTES = 2**28
"""Of dense copies."""


def weights(out: int, width: int, seed: int) -> tuple[torch.Tensor, Packed, Packed]:
    """A random 2:4 weight in bfloat16, packed, and its int8 counterpart."""
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, width, generator=random)
    weight = torch.where(Pattern(2, 4).keep(weight.abs()), weight, 0).bfloat16()
    packed = pack(weight)
    eight = torch.randint(-127, 128, packed.values.shape, generator=random, dtype=torch.int8)
    return weight, packed, Packed("int8", width, torch.bfloat16, eight, packed.mask, torch.ones(out, 1).bfloat16())


def contestants(out: int, width: int, rows: int, threads: int) -> dict[str, Callable[[], Any]]:
    copies = [weights(out, width, seed) for seed in range(max(2, BYTES // (2 * out * width)))]
    x = torch.randn(rows, width).bfloat16()
    sets = {
        "2:4": [kernel24.lay(packed) for _, packed, _ in copies],
        "dense": [kernel24.lay_dense(weight) for weight, _, _ in copies],
        "int8 2:4": [kernel24.lay(eight) for _, _, eight in copies],
        "int8 dense": [kernel24.lay_dense(unpack(e).to(torch.int8), e.scales[:, 0].float()) for _, _, e in copies],  # type: ignore[index]
    }
    for i, (weight, _, _) in enumerate(copies):  # right before fast
        wanted = x.float() @ weight.float().T
        for name in ("2:4", "dense"):
            torch.testing.assert_close(kernel24.product(x, sets[name][i]), wanted, rtol=1e-4, atol=1e-3)
        assert torch.equal(kernel24.product(x, sets["int8 2:4"][i]), kernel24.product(x, sets["int8 dense"][i]))

    def ours(laid: list[kernel24.Laid]) -> Callable[[], Any]:
        turn = cycle(laid)
        return lambda: kernel24.product(x, next(turn), threads=threads).bfloat16()

    turn = cycle([weight for weight, _, _ in copies])
    return {name: ours(laid) for name, laid in sets.items()} | {"torch": lambda: linear(x, next(turn))}


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--rounds", type=int, default=60)
    asked.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu where others use the machine")
    given = asked.parse_args()
    rounds, clock = given.rounds, time.process_time if given.clock == "cpu" else time.perf_counter
    kernel = native.load()
    figures: dict[str, Any] = {"path": native.chosen(kernel), "rounds": rounds, "clock": given.clock}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for out, width in SHAPES:
            times = in_turn(contestants(out, width, 1, threads), rounds, clock)
            best = {name: min(t) for name, t in times.items()}
            mine = figures[f"{out}x{width}, {threads} {'thread' if threads == 1 else 'threads'}"] = {}
            for slow, fast in (("dense", "2:4"), ("torch", "2:4"), ("torch", "dense"), ("int8 dense", "int8 2:4")):
                mine[f"{slow} / {fast}"] = ratio(times, slow, fast)
                mine[f"{slow} / {fast}, fastest of each"] = f"{best[slow] / best[fast]:.2f}×"
            mine["2:4, GB/s of weights"] = round(out * width * 1.125 / best["2:4"] / 1e9, 1)
    finish("decode", figures)


if __name__ == "__main__":
    main()
