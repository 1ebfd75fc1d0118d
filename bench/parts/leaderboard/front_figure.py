"""Pareto fronts: each row as a point, the front as a step line, and as many names as fit."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from bench.parts.leaderboard.smaller_models import NOT_MADE
from bench.reporting import drawing, words
from bench.reporting.drawing import BLUE, HEIGHT, INK, MAX_LETTERS, PAPER, SOFT, WIDTH, scale
from bench.reporting.pareto import Front, FrontPoint
from bench.system.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_LABELS = 40
"""Number of points from which only those on the front have a label."""
PLACES = (
    (8, 0, "left", "center"),
    (-8, 0, "right", "center"),
    (0, 7, "center", "bottom"),
    (0, -7, "center", "top"),
    (-4, 7, "left", "bottom"),
    (-4, -7, "left", "top"),
)
"""Places for a label beside its point: pixels to the right and up, and its alignment."""


def draw_fronts(lines: Sequence[Sequence[Front]]) -> Figure:
    """Draw lines of fronts, a panel for each: all points, the front as a step line, and as many
    names as fit."""
    rows, columns = len(lines), len(lines[0])
    figure, panels = drawing.new_figure(WIDTH * columns, HEIGHT * rows, rows=rows, columns=columns)
    fronts = list(zip(panels.flat, itertools.chain.from_iterable(lines), strict=True))
    for axes, front in fronts:
        _draw_front(axes, front)
    figure.draw_without_rendering()  # once, since it places the panels
    for axes, front in fronts:
        _add_labels(axes, front.points, _scale_of(front))
    return figure


def _scale_of(front: Front) -> float:
    return 1e6 if front.x.unit == "B" else 1.0


def _draw_front(axes: Axes, front: Front) -> None:
    """Draw a front on a panel, without names."""
    mega = _scale_of(front)
    unit = {"B": ", MB", "1": "", "": ""}.get(front.x.unit, f", {front.x.unit}")
    optimal = front.optimal
    # Between two rows the worse one is what can be had.
    where: Literal["pre", "post"] = "pre" if front.x.sign < 0 else "post"
    axes.step(
        [p.x / mega for p in optimal], [p.y for p in optimal], where=where, color=BLUE, alpha=0.55
    )
    for p in front.points:
        color = BLUE if p.on_front else SOFT
        tip = drawing.tip(f"{p.name}: {p.text}")
        if p.spread:
            axes.plot(
                [p.x / mega] * 2,
                [p.y - p.spread, p.y + p.spread],
                color=color,
                linewidth=1.2,
                gid=tip,
            )
        face = color if p.dense else PAPER
        axes.plot(p.x / mega, p.y, "o", color=color, markersize=7, markerfacecolor=face, gid=tip)
    ends = [end for p in front.points for end in (p.y - p.spread, p.y + p.spread)]
    scale(axes, "x", [p.x / mega for p in front.points], f"{front.x.label}{unit}")
    scale(axes, "y", ends, front.y.name)
    axes.margins(0.1)


def _add_labels(axes: Axes, points: Sequence[FrontPoint], mega: float) -> None:
    """Name the points, those on the front first. A name that fits nowhere is left out."""
    from matplotlib.transforms import Bbox

    panel = axes.get_window_extent()
    taken = [axes.transData.transform((p.x / mega, p.y)) for p in points]
    boxes: list[Any] = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in taken]
    named = points if len(points) < MAX_LABELS else [p for p in points if p.on_front]
    for p in sorted(named, key=lambda p: (not p.on_front, -p.y, p.x)):
        lengths = [MAX_LETTERS]
        if p.on_front:
            lengths.append(MAX_LETTERS // 2)
        for letters in lengths:
            if any(_place(axes, p, mega, letters, place, panel, boxes) for place in PLACES):
                break


def _place(
    axes: Axes, p: FrontPoint, mega: float, letters: int, place: Any, panel: Any, boxes: list[Any]
) -> bool:
    """Add a point's label and its box, if it overlaps no other box. Returns whether it does not."""
    right, up, horizontal, vertical = place
    weight, color = ("bold", INK) if p.on_front else ("normal", SOFT)
    name = printable(p.name.removesuffix(f" ({NOT_MADE})"))
    label = axes.annotate(
        words.cut(name, letters),
        (p.x / mega, p.y),
        (right, up),
        textcoords="offset points",
        ha=horizontal,
        va=vertical,
        weight=weight,
        color=color,
    )
    label.set_in_layout(False)
    box = label.get_window_extent()
    inside = panel.x0 <= box.x0 and box.x1 <= panel.x1 and panel.y0 <= box.y0 and box.y1 <= panel.y1
    if inside and not any(box.overlaps(other) for other in boxes):
        boxes.append(box)
        return True
    label.remove()
    return False
