"""Draw the best perplexity so far over the trials of a search, a line for each method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.reporting.drawing import choose_colors, name_ticks, new_figure, require_format, save_figure


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
    require_format(file)
    figure, ((axis,),) = new_figure(430, 290)
    for color, curve in zip(choose_colors(len(curves)), curves, strict=True):
        at = range(1, len(curve.values) + 1)
        points, lowest = ([v if math.isfinite(v) else math.nan for v in line] for line in (curve.values, curve.lowest))
        axis.plot(at, points, "o", color=color, markersize=3, alpha=0.4)
        axis.step(at, lowest, where="post", color=color, label=curve.method)
    axis.set_yscale("log")
    name_ticks(axis.yaxis)
    axis.set_xlabel("trials")
    axis.set_title("lowest perplexity so far, on the validation split")
    axis.legend()
    return save_figure(figure, file, "Lowest perplexity over the trials of a search")
