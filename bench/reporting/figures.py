"""Figures of records, as SVG, PNG or PDF."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.results.record import Record
from bench.system.text import printable
from methods.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bench.compare.history import Series
    from bench.compare.scaling_law import GridRun, Law

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Of Okabe and Ito: also color-blind readers can distinguish them."""
FORMATS = (".svg", ".png", ".pdf")
MAX_PANELS = 30
PANELS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("loss, nats a token", (("ce", "cross-entropy"), ("kl", "KL to the dense model"))),
    ("share of |w| that the mask keeps", (("S", "S"),)),
    ("share of the mask that flipped", (("flips", "flips"),)),
    ("α and learning rate", (("alpha", "α"), ("lr", "lr / peak"))),
)
"""Title, and the columns of the training curve in the panel, each with its label."""


def choose_colors(count: int) -> Sequence[str]:
    """A color for each of so many lines: COLORS, or if these are too few, steps of a color map."""
    if count <= len(COLORS):
        return COLORS[:count]
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(color) for color in colormaps["turbo"].resampled(count)(range(count))]


def draw_training(record: Record, file: Path) -> Path:
    """Draw a training: losses, S, mask flips, learning rate and alpha over steps.

    Raises:
        UserError: the record has no training, or the file's suffix is not in FORMATS.
    """
    curve = record.notes.get("curve")
    if not curve:
        raise UserError(
            f"record {record.short_key} has no training: name the `pattern` record of a method that trains "
            "(bench ls runs)"
        )
    pyplot = start_figure(file)
    panels = [(title, [c for c in columns if c[0] in curve[0]]) for title, columns in PANELS]
    panels = [(title, columns) for title, columns in panels if columns]
    size = (4.2 * len(panels), 3.2)
    figure, axes = pyplot.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
    for (title, columns), axis in zip(panels, axes[0], strict=True):
        _panel(axis, title, columns, curve)
    figure.suptitle(_title(record), x=0.01, ha="left", fontsize=10, parse_math=False)
    return save_figure(figure, file)


def draw_scaling(law: Law, file: Path, method: str, control: str, holdout: GridRun | None = None) -> Path:
    """Draw a law's curve for each model, with its points; the holdout is a hollow one.

    Raises:
        UserError: the file's suffix is not in FORMATS.
    """
    from bench.compare.scaling_law import group_by_model

    pyplot = start_figure(file)
    figure, axis = pyplot.subplots(figsize=(6, 4), layout="constrained")
    everything = [*law.points, *([holdout] if holdout else [])]
    budgets = [p.training for p in everything]
    grid = [min(budgets) * (max(budgets) / min(budgets)) ** (k / 60) for k in range(61)]
    by_model = group_by_model(everything)
    for color, (model, points) in zip(choose_colors(len(by_model)), by_model.items(), strict=True):
        weights = points[0].weights
        predicted = [law.predict(weights, d) for d in grid]
        axis.plot(grid, [p.value for p in predicted], color=color, linewidth=1.2, label=f"{model}, {weights:,} weights")
        axis.fill_between(grid, [p.low for p in predicted], [p.high for p in predicted], color=color, alpha=0.12)
        for p in points:
            axis.plot(p.training, p.loss, "o", color=color, fillstyle="none" if p is holdout else "full", markersize=6)
    axis.set(xscale="log", yscale="log")
    axis.set_xlabel("training tokens")
    axis.set_ylabel(f"nats a token, {method} above {control}", parse_math=False)
    axis.grid(alpha=0.3, linewidth=0.5, which="both")
    axis.legend(fontsize=8, frameon=False)
    return save_figure(figure, file)


def draw_history(series: Sequence[Series], file: Path) -> Path:
    """Draw a metric over commits, a panel for each row: level between steps, dashed lines where the machine changed.

    Raises:
        UserError: the file's suffix is not in FORMATS, or there are more than MAX_PANELS rows.
    """
    if len(series) > MAX_PANELS:
        raise UserError(f"too many rows for a figure ({len(series)}, at most {MAX_PANELS}): select some with --row")
    pyplot = start_figure(file)
    figure, axes = pyplot.subplots(len(series), 1, figsize=(8, 2.2 * len(series)), squeeze=False, layout="constrained")
    for one, axis in zip(series, axes[:, 0], strict=True):
        values = [p.value for p in one.points]
        bounds = [0, *(i for i, p in enumerate(one.points) if p.step), len(values)]
        for start, end in pairwise(bounds):
            level = sum(values[start:end]) / (end - start)
            axis.plot([start - 0.4, end - 0.6], [level, level], color=COLORS[1], linewidth=1.2)
        for i, p in enumerate(one.points):
            if p.surroundings:
                axis.axvline(i - 0.5, color="#777777", linestyle="--", linewidth=0.8)
        axis.plot(values, "o", color=COLORS[0], markersize=4)
        axis.set_ylim(*_axis_limits(values))
        axis.ticklabel_format(axis="y", useOffset=False)
        axis.set_title(one.name, fontsize=9, loc="left", parse_math=False)
        axis.set_ylabel(one.metric, fontsize=8, parse_math=False)
        axis.set_xticks(
            range(len(values)), [p.commit[:7] for p in one.points], fontsize=6, rotation=90, parse_math=False
        )
        axis.tick_params(axis="y", labelsize=8)
        axis.grid(alpha=0.3, linewidth=0.5)
    figure.supxlabel("commit; line: level between steps; dashed: machine or library changed", fontsize=8)
    return save_figure(figure, file)


def _axis_limits(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis: at least 1% to either side of the middle, so that changes in the last digits do not look large."""
    low, high = min(values), max(values)
    middle, half = (low + high) / 2, max(0.6 * (high - low), 0.01 * abs(low + high) / 2)
    return middle - (half or 1.0), middle + (half or 1.0)


def draw_speeds(records: Sequence[Record], file: Path) -> Path:
    """Draw speedups over tokens, a panel for each kind of weight: with their intervals, the roofline limit dashed.

    Raises:
        UserError: no record has a shape that was timed, or the file's suffix is not in FORMATS.
    """
    rows = [row for r in records for row in r.notes.get("shapes", []) if "speedup" in row]
    if not rows:
        raise UserError("nothing to draw: no shape was timed")
    pyplot = start_figure(file)
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    figure, axes = pyplot.subplots(1, len(kinds), figsize=(4.2 * len(kinds), 3.4), squeeze=False, layout="constrained")
    for kind, axis in zip(kinds, axes[0], strict=True):
        of_kind = [row for row in rows if row["kind"] == kind]
        shapes = dict.fromkeys(tuple(row["shape"]) for row in of_kind)
        for color, shape in zip(choose_colors(len(shapes)), shapes, strict=True):
            line = sorted((row for row in of_kind if tuple(row["shape"]) == shape), key=lambda row: row["tokens"])
            at, value = [row["tokens"] for row in line], [row["speedup"] for row in line]
            below, above = zip(
                *((row["speedup"] - row["interval"][0], row["interval"][1] - row["speedup"]) for row in line),
                strict=True,
            )
            axis.errorbar(
                at,
                value,
                yerr=[below, above],
                color=color,
                marker="o",
                markersize=4,
                linewidth=1.2,
                label=f"{shape[0]} x {shape[1]}",
            )
            axis.plot(at, [row["limit"] for row in line], color=color, linestyle="--", linewidth=0.8)
        axis.axhline(1, color="#777777", linewidth=0.8)
        axis.set_xscale("log", base=2)
        axis.set_title(kind, fontsize=9)
        axis.set_xlabel("tokens", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3, linewidth=0.5)
    axes[0][0].set_ylabel("dense / 2:4, limit dashed", fontsize=8)
    axes[0][-1].legend(fontsize=8, frameon=False)
    title = f"{records[0].identity.model} · {records[0].notes.get('device', records[0].identity.device)}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, parse_math=False)
    return save_figure(figure, file)


def require_format(file: Path) -> None:
    """
    Raises:
        UserError: the file's suffix is not in FORMATS.
    """
    if file.suffix not in FORMATS:
        raise UserError(f"unknown figure format {str(file)!r}: the file name must end in {', '.join(FORMATS)}")


def start_figure(file: Path) -> Any:
    """matplotlib's pyplot, to draw a figure that will be written to `file`.

    Raises:
        UserError: the file's suffix is not in FORMATS.
    """
    require_format(file)
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "cast-bench"  # the same figure gives the same bytes
    from matplotlib import pyplot

    return pyplot


def save_figure(figure: Figure, file: Path) -> Path:
    """Write a figure, its text printable, and close it. Returns the file."""
    from matplotlib import pyplot
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if (shown := "\n".join(map(printable, text.get_text().split("\n")))) != text.get_text():
            text.set_text(shown)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
    pyplot.close(figure)
    return file


def _panel(axis: Axes, title: str, columns: Sequence[tuple[str, str]], curve: Sequence[dict[str, Any]]) -> None:
    steps = [row["step"] for row in curve]
    for key, label in columns:
        values = [row[key] for row in curve]
        peak = max(values) if key == "lr" else 1.0
        axis.plot(steps, [v / peak for v in values] if peak else values, label=label, linewidth=1.4)
    axis.set_title(title, fontsize=9)
    axis.set_xlabel("step", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.3, linewidth=0.5)
    if len(columns) > 1:
        axis.legend(fontsize=8, frameon=False)


def _title(record: Record) -> str:
    identity = record.identity
    parts = [identity.model, identity.method, identity.pattern, identity.training and identity.training.label]
    perplexities = record.notes.get("validation_perplexity", {})
    title = " · ".join(str(p) for p in parts if p)
    return title + "".join(f" · {k.replace('_', ' ')} {v:.4g}" for k, v in perplexities.items())
