"""Figure of a comparison: the distribution of KL, and its mean by confidence and position."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.parts.fidelity import tally
from bench.parts.fidelity.pair import Comparison
from bench.reporting.drawing import LIGHT, SERIES, name_ticks, new_figure, save_figure


def draw(found: Comparison, file: Path, title: str) -> Path:
    """Draw three panels: tokens by KL on a log scale, mean KL by confidence and by position. The
    floor is gray."""
    figure, ((spread, confidence, position),) = new_figure(960, 270, columns=3)
    edges = np.r_[tally.EDGES[0] / 10 ** (1 / tally.PER_DECADE), tally.EDGES]
    for items, color in [
        *((items, LIGHT["line"]) for items in found.floor.values()),
        (found.items, SERIES[0]),
    ]:
        counts = tally.histogram(items).sum(0)
        spread.stairs(100 * counts[:-1] / counts.sum(), edges, color=color, linewidth=1.4)
    mean = float(found.items.columns["kl"].sum() / found.items.weights.sum())
    p99 = tally.percentile(found.items, 0.99)
    for value, name in ((mean, "mean"), (p99, "99%")):
        spread.axvline(max(value, edges[0]), color=SERIES[1], linewidth=1, linestyle="--")
        spread.annotate(name, (max(value, edges[0]), 0.97), xycoords=("data", "axes fraction"))
    spread.set(xscale="log", xlabel="KL of a token, nats", title="% of tokens", ylim=(0, None))
    for axis, group in ((confidence, "confidence"), (position, "position")):
        labels = [x for x in tally.labels_of(found.items) if x.startswith(group)]
        for at, label in enumerate(labels):
            kl = tally.mean_interval(found.items, "kl", label)
            if kl.low is not None and kl.high is not None:
                axis.plot([at, at], [kl.low, kl.high], color=SERIES[0], linewidth=1.4)
            axis.plot(at, kl.value, "o", color=SERIES[0], markersize=5)
        names = [label.removeprefix(group).strip().replace(" to ", "–") for label in labels]
        axis.set_xticks(range(len(labels)), names, rotation=30, ha="right", fontsize=8)
        axis.set(title="mean KL, nats", xlabel=f"{group}", ylim=(0, None))
        name_ticks(axis.yaxis)
    figure.suptitle(title, x=0.01, ha="left")
    return save_figure(figure, file, title)
