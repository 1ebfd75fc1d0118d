"""n:m selection on one [4096, 11008] matrix: ours against a loop over groups of columns, as public
code does it.

python benchmarks/selection.py
"""

from __future__ import annotations

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
    score = torch.rand(
        4096, 11008, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).float()
    figures = {}
    for n, m in ((2, 4), (4, 8)):
        pattern = Pattern(n, m)
        contestants = {
            "loop": lambda n=n, m=m: by_columns(score, n, m),
            "ours": lambda p=pattern: p.keep(score),
        }
        differ = int((contestants["loop"]() != contestants["ours"]()).sum())
        assert differ < 1000, differ  # topk settles a tie anyhow
        times = in_turn(contestants, 7)
        figures[f"{n}:{m}"] = {
            "loop / ours": ratio(times, "loop", "ours"),
            "ours_s": min(times["ours"]),
        }
    finish("selection", figures)


if __name__ == "__main__":
    start(main)
