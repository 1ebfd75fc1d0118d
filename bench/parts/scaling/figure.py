"""Figure of a scaling law."""

from __future__ import annotations

from pathlib import Path

from bench.parts.scaling.law import GridRun, Law
from bench.reporting.drawing import choose_colors, name_ticks, new_figure, save_figure
from bench.system.grouping import group_by


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
