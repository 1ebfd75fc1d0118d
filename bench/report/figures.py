"""Pictures of records, as SVG or PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.results.record import Record
from methods.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bench.compare.history import Series
    from bench.compare.scaling_law import Law, Point

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Told apart by readers who do not see all colors (Okabe and Ito)."""
FORMATS = (".svg", ".png", ".pdf")
MOST_PANELS = 30
PANELS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("loss, nats a token", (("ce", "cross-entropy"), ("kl", "KL to the dense model"))),
    ("share of |w| that the mask keeps", (("S", "S"),)),
    ("share of the mask that flipped", (("flips", "flips"),)),
    ("pull and learning rate", (("alpha", "α"), ("lr", "lr / peak"))),
)
"""Title, and the columns of a training's curve that stand in the panel."""


def training(record: Record, file: Path) -> Path:
    """Draw a training's diary: losses, S, mask flips, learning rate and alpha over steps.

    Raises:
        UserError: the record tells of no training, or the file's ending is none that can be drawn.
    """
    curve = record.notes.get("curve")
    if not curve:
        raise UserError(
            f"record {record.key[:12]} tells of no training: take the `pattern` record of a method that trains "
            "(bench ls runs)"
        )
    pyplot = _pyplot(file)
    shown = [(t, [c for c in columns if c[0] in curve[0]]) for t, columns in PANELS]
    shown = [(t, columns) for t, columns in shown if columns]
    figure, axes = pyplot.subplots(1, len(shown), figsize=(4.2 * len(shown), 3.2), squeeze=False, layout="constrained")
    for (title, columns), axis in zip(shown, axes[0], strict=True):
        _panel(axis, title, columns, curve)
    figure.suptitle(_title(record), x=0.01, ha="left", fontsize=10, parse_math=False)
    return _save(figure, file)


def scaling(law: Law, file: Path, method: str, control: str, held: Point | None = None) -> Path:
    """Draw a law's curve for each model through its points; the point left out is hollow.

    Raises:
        UserError: the file's ending is none that can be drawn.
    """
    from bench.compare.scaling_law import grouped

    pyplot = _pyplot(file)
    figure, axis = pyplot.subplots(figsize=(6, 4), layout="constrained")
    everything = [*law.points, *([held] if held else [])]
    budgets = [p.training for p in everything]
    grid = [min(budgets) * (max(budgets) / min(budgets)) ** (k / 60) for k in range(61)]
    for color, (model, points) in zip(COLORS, grouped(everything).items(), strict=False):
        weights = points[0].weights
        predicted = [law.predict(weights, d) for d in grid]
        axis.plot(grid, [p.value for p in predicted], color=color, linewidth=1.2, label=f"{model}, {weights:,} weights")
        axis.fill_between(grid, [p.low for p in predicted], [p.high for p in predicted], color=color, alpha=0.12)
        for p in points:
            axis.plot(p.training, p.loss, "o", color=color, fillstyle="none" if p is held else "full", markersize=6)
    axis.set(xscale="log", yscale="log")
    axis.set_xlabel("training tokens")
    axis.set_ylabel(f"nats a token, {method} above {control}", parse_math=False)
    axis.grid(alpha=0.3, linewidth=0.5, which="both")
    axis.legend(fontsize=8, frameon=False)
    return _save(figure, file)


def history(series: Sequence[Series], file: Path) -> Path:
    """Draw a metric over commits, a panel a row: steps as breaks of the level, changed surroundings as dashed lines.

    Raises:
        UserError: the file's ending is none that can be drawn, or there are more rows than can be read.
    """
    if len(series) > MOST_PANELS:
        raise UserError(f"{len(series)} rows are more than a figure's {MOST_PANELS}: choose some with --row")
    from itertools import pairwise

    pyplot = _pyplot(file)
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
        axis.set_ylim(*_span(values))
        axis.ticklabel_format(axis="y", useOffset=False)
        axis.set_title(one.name, fontsize=9, loc="left", parse_math=False)
        axis.set_ylabel(one.metric, fontsize=8, parse_math=False)
        axis.set_xticks(
            range(len(values)), [p.commit[:7] for p in one.points], fontsize=6, rotation=90, parse_math=False
        )
        axis.tick_params(axis="y", labelsize=8)
        axis.grid(alpha=0.3, linewidth=0.5)
    figure.supxlabel("commit; line: level between steps; dashed: machine or library changed", fontsize=8)
    return _save(figure, file)


def _span(values: Sequence[float]) -> tuple[float, float]:
    """Of an axis: a per cent at least to either side of the middle, so that the last digits look like what they are."""
    low, high = min(values), max(values)
    middle, half = (low + high) / 2, max(0.6 * (high - low), 0.01 * abs(low + high) / 2)
    return middle - (half or 1.0), middle + (half or 1.0)


def speeds(records: Sequence[Record], file: Path) -> Path:
    """Draw a shape table: a panel a kind of weight, speedup with its interval over tokens, the limit dashed.

    Raises:
        UserError: no record holds a shape that was timed, or the file's ending is none that can be drawn.
    """
    rows = [row for r in records for row in r.notes.get("shapes", []) if "speedup" in row]
    if not rows:
        raise UserError("no shape was timed: there is nothing to draw")
    pyplot = _pyplot(file)
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    figure, axes = pyplot.subplots(1, len(kinds), figsize=(4.2 * len(kinds), 3.4), squeeze=False, layout="constrained")
    for kind, axis in zip(kinds, axes[0], strict=True):
        mine = [row for row in rows if row["kind"] == kind]
        for color, shape in zip(COLORS, dict.fromkeys(tuple(row["shape"]) for row in mine), strict=False):
            line = sorted((row for row in mine if tuple(row["shape"]) == shape), key=lambda row: row["tokens"])
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
    told = f"{records[0].identity.model} · {records[0].notes.get('device', records[0].identity.device)}"
    figure.suptitle(told, x=0.01, ha="left", fontsize=10, parse_math=False)
    return _save(figure, file)


def _pyplot(file: Path) -> Any:
    if file.suffix not in FORMATS:
        raise UserError(f"figure {str(file)!r} should end in {', '.join(FORMATS)}")
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "cast-bench"  # the same figure, the same bytes
    from matplotlib import pyplot

    return pyplot


def _save(figure: Figure, file: Path) -> Path:
    from matplotlib import pyplot

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
    told = " · ".join(str(p) for p in parts if p)
    found = record.notes.get("validation_perplexity", {})
    return told + "".join(f" · {k.replace('_', ' ')} {v:.4g}" for k, v in found.items())
