"""Figures of records, as SVG, PNG or PDF."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.reporting.drawing import (
    LIGHT,
    SERIES,
    choose_colors,
    name_ticks,
    new_figure,
    save_figure,
)
from bench.results.record import Record
from bench.system.grouping import group_by
from bench.system.text import printable
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from bench.compare.history import Series
    from bench.compare.scaling_law import GridRun, Law

MAX_PANELS = 30
PANELS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("loss, nats a token", (("ce", "cross-entropy"), ("kl", "KL to the dense model"))),
    ("share of |w| that the mask keeps", (("S", "S"),)),
    ("share of the mask that flipped", (("flipped", "so far"), ("flips", "at one update"))),
    ("α and learning rate", (("alpha", "α"), ("lr", "lr / peak"))),
)
"""Title, and the columns of the training curve in the panel, each with its label."""


def draw_training(record: Record, file: Path) -> Path:
    """Draw a training: losses, S, mask flips, learning rate and alpha over steps. Raise UserError
    without a training."""
    curve = record.notes.get("curve")
    if not curve:
        raise UserError(
            f"record {record.short_key} has no training: name the `pattern` record of a method "
            "that trains (bench ls runs)"
        )
    panels = []
    for title, columns in PANELS:
        kept = [c for c in columns if c[0] in curve[0]]
        if kept:
            panels.append((title, kept))
    figure, axes = new_figure(300 * len(panels), 230, columns=len(panels))
    for (title, kept), axis in zip(panels, axes[0], strict=True):
        _panel(axis, title, kept, curve)
    figure.suptitle(_title(record), x=0.01, ha="left")
    return save_figure(figure, file, _title(record))


def draw_scaling(law: Law, file: Path, method: str, control: str, holdout: GridRun) -> Path:
    """Draw a law's curve for each model, with its points; the holdout is a hollow one."""
    figure, ((axis,),) = new_figure(430, 290)
    everything = [*law.points, holdout]
    budgets = [p.training for p in everything]
    grid = [min(budgets) * (max(budgets) / min(budgets)) ** (k / 60) for k in range(61)]
    by_model = group_by(sorted(everything, key=lambda p: p.training), lambda p: p.model)
    for color, (model, points) in zip(choose_colors(len(by_model)), by_model.items(), strict=True):
        weights = points[0].weights
        predicted = [law.predict(weights, d) for d in grid]
        axis.plot(
            grid,
            [p.value for p in predicted],
            color=color,
            linewidth=1.2,
            label=f"{model}, {weights:,} weights",
        )
        axis.fill_between(
            grid, [p.low for p in predicted], [p.high for p in predicted], color=color, alpha=0.12
        )
        for p in points:
            fill = "none" if p is holdout else "full"
            axis.plot(p.training, p.loss, "o", color=color, fillstyle=fill, markersize=6)
    axis.set(
        xscale="log",
        yscale="log",
        xlabel="training tokens",
        title=f"nats a token, {method} above {control}",
    )
    name_ticks(axis.xaxis)
    name_ticks(axis.yaxis)
    axis.legend()
    return save_figure(figure, file, f"Scaling of {method} and {control}")


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


def draw_search(trials: Mapping[str, Sequence[float]], file: Path) -> Path:
    """Draw each method's lowest value so far, and each trial as a point. Trials that diverged have
    no point.

    trials: perplexities by method, infinite where training diverged.
    """
    figure, ((axis,),) = new_figure(430, 290)
    for color, (method, values) in zip(choose_colors(len(trials)), trials.items(), strict=True):
        at = range(1, len(values) + 1)
        points = np.array(values, dtype=float)
        points[np.isinf(points)] = math.nan
        lowest = np.fmin.accumulate(points)
        axis.plot(at, points, "o", color=color, markersize=3, alpha=0.4)
        axis.step(at, lowest, where="post", color=color, label=method)
    axis.set(
        yscale="log", xlabel="trials", title="lowest perplexity so far, on the validation split"
    )
    name_ticks(axis.yaxis)
    axis.legend()
    return save_figure(figure, file, "Lowest perplexity over the trials of a search")


def _panel(
    axis: Axes, title: str, columns: Sequence[tuple[str, str]], curve: Sequence[dict[str, Any]]
) -> None:
    steps = [row["step"] for row in curve]
    for key, label in columns:
        values = [row[key] for row in curve]
        if key == "lr" and any(values):
            peak = max(values)
            values = [value / peak for value in values]
        axis.plot(steps, values, label=label)
    axis.set(title=title, xlabel="step")
    if len(columns) > 1:
        axis.legend()


def _title(record: Record) -> str:
    identity = record.identity
    parts = [
        identity.model,
        identity.method,
        identity.pattern,
        identity.training and identity.training.label,
    ]
    perplexities = record.notes.get("validation_perplexity", {})
    title = " · ".join(str(p) for p in parts if p)
    return title + "".join(f" · {k.replace('_', ' ')} {v:.4g}" for k, v in perplexities.items())
