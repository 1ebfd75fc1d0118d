"""A forest plot: each row's perplexity as a ratio to the dense model, with its interval."""

from __future__ import annotations

from dataclasses import dataclass

from bench.reporting import label, words
from bench.reporting.scale import Tick, make_scale
from bench.reporting.view import Table

WIDTH, LEFT, RIGHT = 460, 208, 404
LINE, TOP = 17, 34
MAX_ROWS = 40
MIN_ROWS = 2


@dataclass(frozen=True)
class Bar:
    y: float
    name: str
    full_name: str
    x: float
    low: float
    high: float
    text: str
    sure: bool
    """Does the interval leave out 1?"""


@dataclass(frozen=True)
class Forest:
    """All that the template draws, in pixels. one: where the ratio is 1, None if that is outside."""

    title: str
    description: str
    ticks: tuple[Tick, ...]
    bars: tuple[Bar, ...]
    one: float | None
    height: int
    x_name: str
    width: int = WIDTH
    left: int = LEFT
    right: int = RIGHT
    top: int = TOP


def draw(table: Table, title: str) -> Forest | None:
    """The rows with a ratio, the best at the top; None if there are fewer than MIN_ROWS."""
    rows = []
    for k in table.whole_rows:
        facts = table.rows[k].facts
        if facts and facts.ratio and not facts.broken:
            rows.append((facts.ratio.value, *facts.ratio.ends, table.rows[k].name))
    if len(rows) < MIN_ROWS:
        return None
    rows.sort()
    left_out = len(rows) - MAX_ROWS
    rows = rows[:MAX_ROWS]
    scale = make_scale([x for row in rows for x in row[:3]] + [1.0], LEFT + 6, RIGHT - 6)
    bottom = TOP + LINE * len(rows)
    bars = tuple(
        Bar(
            TOP + LINE * (i + 0.5),
            label.cut(name, LEFT - 8, bold=True),
            name,
            scale(value),
            scale(low),
            scale(high),
            words.ratio(value),
            not low <= 1 <= high,
        )
        for i, (value, low, high, name) in enumerate(rows)
    )
    ticks = tuple(Tick(scale(v), words.tick(v)) for v in scale.ticks())
    description = "; ".join(f"{name} {words.ratio(value, low, high)}" for value, low, high, name in rows)
    kind = "perplexity ratio to dense" + (" (log)" if scale.log else "")
    note = f", the best {MAX_ROWS} of {len(rows) + left_out} rows" if left_out > 0 else ""
    return Forest(title, description, ticks, bars, scale(1.0), bottom + 44, kind + note)
