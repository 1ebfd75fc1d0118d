"""A Pareto front as a chart, with labels that do not overlap.

It is not drawn by matplotlib: the page needs text that a screen reader finds, colors that follow the reader's theme, and
bytes that do not change with a library's version.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from bench.reporting import label, words
from bench.reporting.pareto import Front, FrontPoint, describe
from bench.reporting.scale import AxisScale, Tick, make_scale

WIDTH, HEIGHT = 460, 340
LEFT, RIGHT, TOP, BOTTOM = 60, 448, 30, 290
LINE = 13.0
"""The height of a line."""
MAX_LABELS = 40
"""With more points, only those on the front have a label."""
MAX_LABEL = 160
"""In pixels. The table has the whole name."""
SHORTER = (120, 80)
"""Widths for a label of the front that fits nowhere."""


Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Text:
    x: float
    y: float
    anchor: str
    text: str
    on_front: bool = False


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    low: float
    high: float
    name: str
    text: str
    on_front: bool
    dense: bool


@dataclass(frozen=True)
class Chart:
    """All that the template draws, in pixels."""

    title: str
    description: str
    x_name: str
    y_name: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    step: str
    dots: tuple[Dot, ...]
    labels: tuple[Text, ...]
    hint: Text | None
    """Which corner is the best one; None where a row or its name stands in it."""
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = RIGHT
    bottom: int = BOTTOM


def draw(front: Front, title: str) -> Chart:
    ends = [p.y - p.spread for p in front.points] + [p.y + p.spread for p in front.points]
    mega = 1e6 if front.x.unit == "B" else 1.0
    x = make_scale([p.x / mega for p in front.points], LEFT, RIGHT)
    y = make_scale(ends, BOTTOM, TOP)
    dots = tuple(_dot(p, x(p.x / mega), y) for p in front.points)
    unit = {"B": ", MB", "1": "", "": ""}.get(front.x.unit, f", {front.x.unit}")
    labels, taken = _labels(dots)
    hint, at_hint = _hint(front.x.better != "higher", front.y.better != "higher")
    return Chart(
        title,
        describe(front),
        f"{front.x.label}{unit}{' (log)' if x.log else ''}",
        f"{front.y.name}{' (log)' if y.log else ''}",
        tuple(Tick(x(v), words.tick(v)) for v in x.ticks()),
        tuple(Tick(y(v), words.tick(v)) for v in y.ticks()),
        _steps([(x(p.x / mega), y(p.y)) for p in front.optimal]),
        dots,
        labels,
        None if any(_overlap(at_hint, box) for box in taken) else hint,
    )


def _dot(p: FrontPoint, x: float, y: AxisScale) -> Dot:
    return Dot(x, y(p.y), y(p.y - p.spread), y(p.y + p.spread), p.name, p.text, p.on_front, p.dense)


def _hint(x_smaller: bool, y_smaller: bool) -> tuple[Text, Box]:
    """Which corner is the best one, and the box of these words."""
    hints = {(True, True): "↙ better", (True, False): "↖ better", (False, True): "better ↘", (False, False): "better ↗"}
    at = LEFT + 6 if x_smaller else RIGHT - 6
    base, text = BOTTOM - 8 if y_smaller else TOP + 12, hints[x_smaller, y_smaller]
    left = at if x_smaller else at - label.width(text)
    box = (left, base - 10, left + label.width(text), base - 10 + LINE)
    return Text(at, base, "start" if x_smaller else "end", text), box


def _steps(places: Sequence[tuple[float, float]]) -> str:
    """A path along the axes from point to point: between two points nothing was measured."""
    if not places:
        return ""
    (x, y), *rest = places
    return f"M{x} {y}" + "".join(f"H{a}V{b}" for a, b in rest)


def _labels(dots: Sequence[Dot]) -> tuple[tuple[Text, ...], list[Box]]:
    """Labels, those of the front first, and all places that they and the dots take.

    A label that fits nowhere is left out: the table has it.
    """
    boxes: list[Box] = [(d.x - 5, min(d.high, d.y - 5), d.x + 5, max(d.low, d.y + 5)) for d in dots]
    places: list[Callable[[Dot, str], tuple[Text, Box]]] = [_right, _left]
    places += [partial(at, down) for at in (_centered, _start_aligned) for down in (-9, 17)]
    with_label = dots if len(dots) < MAX_LABELS else [d for d in dots if d.on_front]
    out = []
    for dot in sorted(with_label, key=lambda d: (not d.on_front, d.y, d.x)):
        widths = (MAX_LABEL, *(SHORTER if dot.on_front else ()))
        names = [label.cut(dot.name, width, bold=dot.on_front) for width in widths]
        fits = ((text, box) for name in names for place in places for text, box in [place(dot, name)])
        for text, box in fits:
            if _inside(box) and not any(_overlap(box, other) for other in boxes):
                boxes.append(box)
                out.append(text)
                break
    return tuple(out), boxes


def _width(dot: Dot, name: str) -> float:
    return label.width(name, bold=dot.on_front)


def _right(dot: Dot, name: str) -> tuple[Text, Box]:
    left, width = dot.x + 9, _width(dot, name)
    return Text(left, dot.y + 4, "start", name, dot.on_front), (left, dot.y - 6, left + width, dot.y - 6 + LINE)


def _left(dot: Dot, name: str) -> tuple[Text, Box]:
    right, width = dot.x - 9, _width(dot, name)
    return Text(right, dot.y + 4, "end", name, dot.on_front), (right - width, dot.y - 6, right, dot.y - 6 + LINE)


def _centered(down: float, dot: Dot, name: str) -> tuple[Text, Box]:
    half, base = _width(dot, name) / 2, dot.y + down
    return Text(dot.x, base, "middle", name, dot.on_front), (dot.x - half, base - 10, dot.x + half, base - 10 + LINE)


def _start_aligned(down: float, dot: Dot, name: str) -> tuple[Text, Box]:
    left, base = dot.x - 5, dot.y + down
    return Text(left, base, "start", name, dot.on_front), (left, base - 10, left + _width(dot, name), base - 10 + LINE)


def _inside(box: Box) -> bool:
    return box[0] >= LEFT and box[1] >= TOP - 8 and box[2] <= WIDTH - 2 and box[3] <= BOTTOM


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
