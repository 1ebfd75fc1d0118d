"""Pictures of records, as SVG or PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.store import Record
from methods.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".svg", ".png", ".pdf")
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
    if file.suffix not in FORMATS:
        raise UserError(f"figure {str(file)!r} should end in {', '.join(FORMATS)}")
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "cast-bench"  # the same figure, the same bytes
    from matplotlib import pyplot

    shown = [(t, [c for c in columns if c[0] in curve[0]]) for t, columns in PANELS]
    shown = [(t, columns) for t, columns in shown if columns]
    figure, axes = pyplot.subplots(1, len(shown), figsize=(4.2 * len(shown), 3.2), squeeze=False, layout="constrained")
    for (title, columns), axis in zip(shown, axes[0], strict=True):
        _panel(axis, title, columns, curve)
    figure.suptitle(_title(record), x=0.01, ha="left", fontsize=10, parse_math=False)
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
    slot = record.slot
    parts = [slot.get("model"), slot.get("method"), slot.get("pattern"), slot.get("training")]
    told = " · ".join(str(p) for p in parts if p)
    found = record.notes.get("validation_perplexity", {})
    return told + "".join(f" · {k.replace('_', ' ')} {v:.4g}" for k, v in found.items())
