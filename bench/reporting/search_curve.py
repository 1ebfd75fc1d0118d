"""The figure of a search: the best perplexity so far over trials, a line for each method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.reporting.figures import choose_colors, save_figure, start_figure


class Curve(NamedTuple):
    """One method: its perplexity in each trial, infinite where training diverged, and the lowest so far."""

    method: str
    values: Sequence[float]
    lowest: Sequence[float]


def draw_search(curves: Sequence[Curve], file: Path) -> Path:
    """Draw the lowest value so far, and each trial as a point. Trials that diverged have no point.

    Raises:
        UserError: the file's suffix is not in FORMATS.
    """
    pyplot = start_figure(file)
    figure, axis = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for color, curve in zip(choose_colors(len(curves)), curves, strict=True):
        at = range(1, len(curve.values) + 1)
        points, lowest = ([v if math.isfinite(v) else math.nan for v in line] for line in (curve.values, curve.lowest))
        axis.plot(at, points, "o", color=color, markersize=3, alpha=0.4)
        axis.step(at, lowest, where="post", color=color, linewidth=1.4, label=curve.method)
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("{x:g}")
    axis.set_xlabel("trials")
    axis.set_ylabel("perplexity on the validation split, lowest so far")
    axis.grid(alpha=0.3, linewidth=0.5, which="both")
    axis.legend(fontsize=8, frameon=False)
    return save_figure(figure, file)
