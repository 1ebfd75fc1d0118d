"""n:m selection on a [4096, 11008] matrix: ours against a loop over groups of columns.

Public code selects in such a loop.

python benchmarks/selection.py
"""

from __future__ import annotations

from functools import partial

import torch
from harness import finish, in_turn, ratio, start
from torch import Tensor

from bench.system.devices import cores
from methods.contract.pattern import Pattern


def by_columns(score: Tensor, n: int, m: int) -> Tensor:
    """Keep the n best of each group of m columns, a group at a time."""
    keep = torch.zeros_like(score, dtype=torch.bool)
    for a in range(0, score.shape[1], m):
        keep.scatter_(1, a + score[:, a : a + m].topk(n, dim=1).indices, True)
    return keep


def main() -> None:
    torch.set_num_threads(cores())
    generator = torch.Generator().manual_seed(0)
    score = torch.rand(4096, 11008, generator=generator, dtype=torch.float64).float()
    figures = {}
    for n, m in ((2, 4), (4, 8)):
        loop, ours = partial(by_columns, score, n, m), partial(Pattern(n, m).keep, score)
        differ = int((loop() != ours()).sum())
        assert differ < 1000, differ  # topk settles a tie anyhow
        times = in_turn({"loop": loop, "ours": ours}, 7)
        both = ratio(times, "loop", "ours")
        figures[f"{n}:{m}"] = {"loop / ours": both, "ours_s": min(times["ours"])}
    finish("selection", figures)


if __name__ == "__main__":
    start(main)
