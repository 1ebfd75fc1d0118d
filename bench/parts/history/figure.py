"""Figure of a metric over commits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from bench.parts.history.series import Series
from bench.reporting.drawing import LIGHT, SERIES, new_figure, save_figure
from bench.system.text import printable
from methods.contract.errors import UserError

MAX_PANELS = 30


def draw_history(series: Sequence[Series], file: Path) -> Path:
    """Draw a metric over commits, a panel for each row: level between steps, dashed lines where the
    machine changed."""
    if len(series) > MAX_PANELS:
        raise UserError(
            f"too many rows for a figure ({len(series)}, at most {MAX_PANELS}): select some with "
            "--row"
        )
    figure, axes = new_figure(560, 160 * len(series), rows=len(series))
    for one, axis in zip(series, axes[:, 0], strict=True):
        values = [p.value for p in one.points]
        bounds = [0, *(i for i, p in enumerate(one.points) if p.step), len(values)]
        for start, end in pairwise(bounds):
            level = sum(values[start:end]) / (end - start)
            axis.plot([start - 0.4, end - 0.6], [level, level], color=SERIES[1], linewidth=1.2)
        for i, p in enumerate(one.points):
            if p.surroundings:
                axis.axvline(i - 0.5, color=LIGHT["soft"], linestyle="--", linewidth=0.8)
        axis.plot(values, "o", color=SERIES[0], markersize=4)
        axis.set(ylim=_axis_limits(values), title=f"{one.name}: {one.metric}")
        axis.ticklabel_format(axis="y", useOffset=False)
        axis.set_xticks(
            range(len(values)),
            [printable(p.commit[:7]) for p in one.points],
            fontsize=8,
            rotation=90,
        )
    figure.supxlabel(
        "commit; line: level between steps; dashed: machine or library changed", fontsize=10
    )
    return save_figure(figure, file, "Metrics over commits")


def _axis_limits(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis: at least 1% to either side of the middle, so that changes in the last digits
    do not look large."""
    low, high = min(values), max(values)
    middle, half = (low + high) / 2, max(0.6 * (high - low), 0.01 * abs(low + high) / 2)
    return middle - (half or 1.0), middle + (half or 1.0)
