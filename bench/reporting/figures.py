"""Figures of records, as SVG, PNG or PDF."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.reporting.drawing import (
    choose_colors,
    name_ticks,
    new_figure,
    save_figure,
)
from bench.results.record import Record
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
