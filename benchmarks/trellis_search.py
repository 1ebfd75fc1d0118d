"""Weights that the search of a trellis code takes in a second of one thread's CPU time, by the
instructions that it may use, the bits of a weight and those of a state.

python benchmarks/trellis_search.py [--rounds 5]
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from harness import Figures, finish, in_turn, start
from torch import Tensor

from bench.parts.codebooks import trellis
from bench.system import provenance
from bench.system.devices import KERNEL_PATH

SEQUENCES = 512
STATES = (10, 12)
"""Bits of a state: the least that `tcq3` is documented with, and its default."""


def search(path: str, x: Tensor, bits: int, memory: int) -> None:
    os.environ[KERNEL_PATH] = path
    trellis.load.cache_clear()
    trellis.search(x, bits, memory)


def main(rounds: int = 5) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if trellis.load() is None:
        sys.exit("this benchmark needs a C++ compiler")
    known = provenance.cpu_flags()
    x = torch.randn(SEQUENCES, trellis.STEPS)
    works: dict[str, Callable[[], Any]] = {}
    for path, flags in trellis.PATHS.items():
        if path == "portable" or not all(flag[2:] in known for flag in flags):
            continue
        for memory in STATES:
            for bits in (2, 3, 4):
                name = f"{path}, {bits} bits, states of {memory} bits"
                works[name] = partial(search, path, x, bits, memory)
    for work in works.values():
        work()  # compiles
    figures: Figures = {"threads": 1}
    for name, times in in_turn(works, rounds, time.process_time).items():
        figures[f"{name}: million weights"] = round(x.numel() / statistics.median(times) / 1e6, 2)
    finish("trellis_search", figures)


if __name__ == "__main__":
    start(main)
