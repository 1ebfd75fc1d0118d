"""Figure of a comparison: the distribution of KL, and its mean by confidence and position."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bench.parts.fidelity import tally
from bench.parts.fidelity.pair import Comparison
from bench.reporting.drawing import LIGHT, SERIES, name_ticks, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = {"confidence": "the original's confidence", "position": "position in the window"}
"""Names of the axes, by the group of buckets."""


def draw(found: Comparison, file: Path, title: str) -> Path:
    """Draw three panels: tokens by KL on a log scale, mean KL by confidence and by position."""
    figure, ((spread, confidence, position),) = new_figure(960, 280, columns=3)
    _draw_spread(spread, found)
    for axis, group in zip((confidence, position), NAMES, strict=True):
        labels = [x for x in tally.labels_of(found.items) if x.startswith(group)]
        for at, label in enumerate(labels):
            kl = tally.mean_interval(found.items, "kl", label)
            if kl.low is not None and kl.high is not None:
                axis.plot([at, at], [kl.low, kl.high], color=SERIES[0], linewidth=1.4)
            axis.plot(at, kl.value, "o", color=SERIES[0], markersize=5)
        names = [label.removeprefix(group).strip().replace(" to ", "–") for label in labels]
        axis.set_xticks(range(len(labels)), names, rotation=30, ha="right", fontsize=8)
        axis.set(title="mean KL, nats", xlabel=NAMES[group], ylim=(0, None))
        name_ticks(axis.yaxis)
    figure.suptitle(title, x=0.01, ha="left")
    return save_figure(figure, file, title)


def _draw_spread(axis: Axes, found: Comparison) -> None:
    """Draw the shares of tokens by KL. Tokens below the first edge, where KL is rounding, are left
    out."""
    mean = float(found.items.columns["kl"].sum() / found.items.weights.sum())
    marks = {"mean": (mean, 0.94), "99%": (tally.percentile(found.items, 0.99), 0.84)}
    for name, (value, height) in marks.items():
        if value > tally.EDGES[0]:
            axis.axvline(value, color=LIGHT["soft"], linewidth=1, linestyle="--")
            axis.annotate(f" {name}", (value, height), xycoords=("data", "axes fraction"))
    lines = [(items, LIGHT["soft"], "floor") for items in found.floor.values()]
    # A label right of its line is as wide as a factor of 4.
    last = 4 * max(value for value, _ in marks.values())
    for items, color, name in [*lines, (found.items, SERIES[0], "compressed")]:
        counts = tally.histogram(items).sum(0)
        shares = 100 * counts[1:-1] / counts.sum()
        if shares.sum() < 1:
            continue
        labels = axis.get_legend_handles_labels()[1]
        axis.stairs(shares, tally.EDGES, color=color, label=None if name in labels else name)
        last = max(last, float(tally.EDGES[1:][shares > 0].max()))
    axis.set(
        xscale="log",
        xlim=(tally.EDGES[0], max(last, 4 * tally.EDGES[0])),
        xlabel="KL of a token, nats",
        title="% of tokens",
    )
    # Labels and the legend are above the highest share.
    axis.set_ylim(0, 1.3 * axis.get_ylim()[1])
    name_ticks(axis.xaxis)
    name_ticks(axis.yaxis)
    if found.floor:
        axis.legend(loc="upper left", ncols=2, fontsize=8)
