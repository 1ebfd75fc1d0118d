"""Share of 95% intervals that agree with held-out articles, for each model.

python benchmarks/coverage.py [--splits 100]

Each row of a board has a ratio to its dense model. Its articles are split at random into two
halves, and each half gives an interval as a table prints it, without the noise between seeds, which
is the same in both. The halves agree if the difference of their ratios is at most the root of the
sum of squares of the two widths, from the ratio towards the other half. Of intervals that hold
what they claim, about 95% agree. For few articles, the variance between articles is learned from
the other rows of the model. A row that changes nothing, as that of the source file, is left out.
"""

from __future__ import annotations

import numpy as np
from harness import ROOT, Figures, finish, start
from intervals import Rows, estimate_windows, read_rows

from bench.stats import articles

BOARDS = {
    "smollm2-135m-instruct-q4": ("main", 60),
    "gemma-3-270m": ("main", 60),
    "qwen2.5-coder-0.5b-instruct-q4": ("main", 60),
    "qwen2.5-coder-1.5b-instruct-q4": ("main", 60),
    "tiny": ("tiny-methods", None),
}
"""Folder of results/ with the rows of each model, and the limit of windows in their protocol."""


def agreeing(rows: Rows, halves: list[np.ndarray]) -> np.ndarray:
    """Return whether the intervals of each row that differs from dense agree: [rows, splits].

    halves: of each split, which windows are in the first half.
    """
    changed = [k for k, row in enumerate(rows.losses) if np.any(row != rows.losses[0])]
    agrees = np.zeros((len(changed), len(halves)), bool)
    for of_row, k in zip(agrees, changed, strict=True):
        others = np.delete(rows.losses, k, axis=0)
        learned = articles.learn(others, rows.weights, rows.clusters)
        change = rows.losses[k] - rows.losses[0]
        for split, first in enumerate(halves):
            one, other = (
                estimate_windows(change[half], rows.weights[half], rows.clusters[half], learned)
                for half in (first, ~first)
            )
            lower, upper = sorted((one, other), key=lambda found: found.value)
            width = np.hypot(lower.high - lower.value, upper.value - upper.low)
            of_row[split] = upper.value - lower.value <= width
    return agrees


def main(splits: int = 100) -> None:
    figures: Figures = {}
    for model, (board, limit) in BOARDS.items():
        rng = np.random.default_rng(0)
        rows = read_rows(model, limit, [ROOT / "results" / board])
        names, index = np.unique(rows.clusters, return_inverse=True)
        halves = []
        for _ in range(splits):
            halves.append((rng.permutation(len(names)) % 2 == 0)[index])
        agrees = agreeing(rows, halves)
        figures[model] = {
            "rows": len(agrees),
            "articles": len(names),
            "agree": round(float(agrees.mean()), 3),
            "row that agrees least": round(float(agrees.mean(1).min()), 3),
        }
    finish("coverage", {"splits": splits, **figures})


if __name__ == "__main__":
    start(main)
