"""A front as a chart: scales, ticks, and labels that do not lie on each other.

Drawn by hand rather than by matplotlib: the page needs text that a screen reader finds, colors that follow the reader's
theme, and bytes that do not change with a library's version.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from bench.report.pareto import Front, Point, told

WIDTH, HEIGHT = 460, 340
LEFT, RIGHT, TOP, BOTTOM = 50, 448, 30, 290
LETTER, LINE = 6.0, 13.0
"""A label's size: of a letter, on average, and of a line."""
LOGARITHMIC = 4.0
"""Largest over least, from which on an axis is logarithmic."""
CROWD = 40
"""Points, from which on only the front is named."""
NAMED = 24
"""Letters of a label; the table has the rest."""


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class Text:
    x: float
    y: float
    anchor: str
    text: str
    front: bool = False


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    low: float
    high: float
    name: str
    text: str
    front: bool
    dense: bool


@dataclass(frozen=True)
class Scale:
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high, v = self.low, self.high, value
        if self.log:
            low, high, v = math.log(low), math.log(high), math.log(max(v, self.low))
        return round(self.start + (v - low) / (high - low) * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        if not self.log:
            return _even(self.low, self.high)
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
            found = [d * 10.0**p for p in powers for d in digits if self.low <= d * 10.0**p <= self.high]
            if len(found) >= 3:
                return found
        return found


@dataclass(frozen=True)
class Chart:
    """All that the template draws, in pixels."""

    title: str
    told: str
    x_name: str
    y_name: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    step: str
    dots: tuple[Dot, ...]
    labels: tuple[Text, ...]
    hint: Text
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = RIGHT
    bottom: int = BOTTOM


def draw(front: Front, title: str) -> Chart:
    ends = [p.y - p.spread for p in front.points] + [p.y + p.spread for p in front.points]
    mega = 1e6 if front.x.unit == "B" else 1.0
    x = scale([p.x / mega for p in front.points], LEFT, RIGHT)
    y = scale(ends, BOTTOM, TOP)
    dots = tuple(_dot(p, x(p.x / mega), y) for p in front.points)
    unit = "MB" if front.x.unit == "B" else front.x.unit
    corner = (front.x.better != "higher", front.y.better != "higher")
    return Chart(
        title,
        told(front),
        f"{front.x.label}, {unit}{' (log)' if x.log else ''}",
        f"{front.y.name}{' (log)' if y.log else ''}",
        tuple(Tick(x(v), _number(v)) for v in x.ticks()),
        tuple(Tick(y(v), _number(v)) for v in y.ticks()),
        _steps([(x(p.x / mega), y(p.y)) for p in front.on]),
        dots,
        tuple(_labels(dots)),
        _hint(*corner),
    )


def scale(values: Sequence[float], start: float, end: float) -> Scale:
    """With a twentieth of room at both ends."""
    low, high = min(values), max(values)
    log = low > 0 and high / low >= LOGARITHMIC
    if low == high:
        room = abs(low) * 0.1 or 1.0
        return Scale(low - room, high + room, start, end, False)
    if log:
        room = (high / low) ** 0.06
        return Scale(low / room, high * room, start, end, True)
    room = (high - low) * 0.08
    return Scale(low - room, high + room, start, end, False)


def _dot(p: Point, x: float, y: Scale) -> Dot:
    return Dot(x, y(p.y), y(p.y - p.spread), y(p.y + p.spread), p.name, p.text, p.front, p.dense)


def _hint(x_smaller: bool, y_smaller: bool) -> Text:
    """Which corner is the good one."""
    words = {(True, True): "↙ better", (True, False): "↖ better", (False, True): "better ↘", (False, False): "better ↗"}
    at = LEFT + 6 if x_smaller else RIGHT - 6
    return Text(at, BOTTOM - 8 if y_smaller else TOP + 12, "start" if x_smaller else "end", words[x_smaller, y_smaller])


def _steps(places: Sequence[tuple[float, float]]) -> str:
    """From point to point along the axes: between two, nothing is claimed."""
    if not places:
        return ""
    (x, y), *rest = places
    return f"M{x} {y}" + "".join(f"H{a}V{b}" for a, b in rest)


def _even(low: float, high: float) -> list[float]:
    """Three to seven multiples of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


Box = tuple[float, float, float, float]


def _labels(dots: Sequence[Dot]) -> list[Text]:
    """The front's first; a label that fits nowhere is left out, for the table has it."""
    taken: list[Box] = [(d.x - 5, min(d.high, d.y - 5), d.x + 5, max(d.low, d.y + 5)) for d in dots]
    places: list[Callable[[Dot, str], tuple[Text, Box]]] = [_right, _left]
    places += [partial(at, down) for at in (_over, _from) for down in (-9, 17)]
    named = dots if len(dots) < CROWD else [d for d in dots if d.front]
    out = []
    for dot in sorted(named, key=lambda d: (not d.front, d.y, d.x)):
        name = dot.name if len(dot.name) <= NAMED else dot.name[: NAMED - 1] + "…"
        for place in places:
            text, box = place(dot, name)
            if _inside(box) and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                out.append(text)
                break
    return out


def _right(dot: Dot, name: str) -> tuple[Text, Box]:
    left, long = dot.x + 9, len(name) * LETTER
    return Text(left, dot.y + 4, "start", name, dot.front), (left, dot.y - 6, left + long, dot.y - 6 + LINE)


def _left(dot: Dot, name: str) -> tuple[Text, Box]:
    right, long = dot.x - 9, len(name) * LETTER
    return Text(right, dot.y + 4, "end", name, dot.front), (right - long, dot.y - 6, right, dot.y - 6 + LINE)


def _over(down: float, dot: Dot, name: str) -> tuple[Text, Box]:
    half, base = len(name) * LETTER / 2, dot.y + down
    return Text(dot.x, base, "middle", name, dot.front), (dot.x - half, base - 10, dot.x + half, base - 10 + LINE)


def _from(down: float, dot: Dot, name: str) -> tuple[Text, Box]:
    left, base = dot.x - 5, dot.y + down
    return Text(left, base, "start", name, dot.front), (left, base - 10, left + len(name) * LETTER, base - 10 + LINE)


def _inside(box: Box) -> bool:
    return box[0] >= LEFT and box[1] >= TOP - 8 and box[2] <= WIDTH - 2 and box[3] <= BOTTOM


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
