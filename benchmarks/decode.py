"""One token through a linear on the CPU, from memory: our 2:4 kernel, dense, and torch's linears.

python benchmarks/decode.py [--blocks N]

In the frame of `bench speed` (bench/parts/speed/comparison.py): in turn, a baseline twice,
copies of each weight that together are three times the last cache. Shares are of the bandwidth that
reading as many bytes reaches in the same run. The limit by bytes is 16/9 for bfloat16 and 8/5 for
int8. An interval is Student's, 95%, of the mean ratio over blocks.
"""

from __future__ import annotations

from collections import Counter

import torch
from harness import Figures, finish, say, spread, start

from bench.parts.speed import linears
from bench.parts.speed.comparison import BLOCKS, Peaks, summarize
from bench.parts.speed.cpu import Cpu

SHAPES = ((4096, 4096), (11008, 4096))
THREADS = (1, 2)


def rows(device: Cpu, peaks: Peaks, weight: torch.Tensor, kind: str, blocks: int) -> Figures:
    """Return the figures of a weight in a kind of numbers."""
    comparison = device.compare(weight, 1, kind)
    timings = comparison.run(device.clock, blocks)
    row = summarize(comparison, timings, peaks)
    prefix = "" if kind == "bf16" else "int8 "
    out: Figures = {}
    for slow in ("dense", "torch bf16", "torch fp32"):
        found = timings.ratio(slow, "2:4")
        out[f"{prefix}{slow} / 2:4"] = spread(found.value, found.low, found.high)
    least = [peaks.seconds(cost, kind) for cost in comparison.costs]
    for name, seconds in zip(("dense", "2:4"), least, strict=True):
        out[f"{prefix}{name}, share of bandwidth"] = f"{seconds / timings.median(name):.0%}"
    out[f"{prefix}limit of dense / 2:4"] = round(least[0] / least[1], 3)
    out[f"{prefix}noise, a side against itself"] = f"{row['noise']:.1%}"
    return out


def main(blocks: int = BLOCKS) -> None:
    weights = [w for _, w in linears.random_weights(Counter(dict.fromkeys(SHAPES, 1)))]
    figures: Figures = {"path": Cpu(1).kernel.best, "blocks": blocks}
    for threads in THREADS:
        torch.set_num_threads(threads)
        device = Cpu(threads)
        peaks = device.peaks()
        row = f"{threads} {'thread' if threads == 1 else 'threads'}"
        figures[f"{row}: bandwidth, GB/s"] = round(peaks.bandwidth / 1e9, 1)
        for weight in weights:
            mine = figures[f"{len(weight)}x{weight.shape[1]}, {row}"] = {}
            for kind in ("bf16", "int8"):
                mine |= rows(device, peaks, weight, kind, blocks)
            say(row, list(weight.shape), mine)
    finish("decode", figures)


if __name__ == "__main__":
    start(main)
