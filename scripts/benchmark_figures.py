"""Draw the figures of docs/benchmarks.md from results/benchmarks/: bars with their spread, a panel
for each kind of number."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.reporting import drawing
from bench.reporting.words import cut
from bench.system.text import printable

WIDTH, LINE, HEAD = 600, 19, 34
"""Width of a figure, and heights of a bar and of a panel's title, in pixels."""
INK, SOFT, BLUE = (drawing.LIGHT[name] for name in ("ink", "soft", "blue"))
MAX_PANELS, MAX_BARS, MAX_LABEL = 10, 18, 44
DOTS_FROM = 30.0
"""Ratio of the largest to the smallest value from which dots on a log scale replace bars."""
QUIET = ("noise", "before", "limit", "theory")
"""Words of keys whose numbers are in the table only."""
UNITS = (
    ("seconds a step", "seconds a step"), ("seconds of CPU", "seconds of CPU"),
    ("seconds", "seconds"), ("ms", "ms"), ("peak MB", "peak MB"), ("MB", "MB"),
    ("tokens/s", "tokens per second"), ("a processor second", "GB a processor second"),
    ("bytes", "ratio of bytes"), ("agreement", "agreement"),
)  # fmt: skip
"""End of a key, and title of its panel."""
SHARES = "share"
SPREAD = re.compile(r"([\d.]+) \(([\d.]+) to ([\d.]+)\)")


@dataclass(frozen=True)
class Number:
    """One number of a benchmark. path: its keys. low, high: its spread, or the value if it has
    none."""

    path: tuple[str, ...]
    value: float
    low: float
    high: float
    ratio: bool = False

    @property
    def text(self) -> str:
        return f"{number(self.value)}×" if self.ratio else number(self.value)


def readable(key: str) -> str:
    """Return a key without underscores, with its unit in words."""
    key = re.sub(
        r"_s$", ", seconds", re.sub(r"bytes(?=_|$)", "MB", key) if key.startswith("peak_") else key
    )
    return key.replace("_", " ")


def number(value: float) -> str:
    """Return a number with three digits, two if it is small, or a whole number with all of its
    digits."""
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    if 0 < abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.3g}" if abs(value) < 0.99 or abs(value) >= 1 else f"{value:.6g}"


def numbers(figures: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[Number]:
    """Yield the numbers of a benchmark's figures, with bytes in MB."""
    for key, value in figures.items():
        here = (*path, readable(key))
        if isinstance(value, dict) and "median" in value:
            yield Number(here, value["median"], value["min"], value["max"], ratio=True)
        elif isinstance(value, dict):
            yield from numbers(value, here)
        elif isinstance(value, str) and (match := SPREAD.fullmatch(value)):
            yield Number(here, *(float(x) for x in match.groups()))
        elif isinstance(value, str) and re.fullmatch(r"[\d.]+%", value):
            yield Number(here, *[float(value[:-1]) / 100] * 3)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            shown = value / 1e6 if key.startswith("peak_bytes") else value
            yield Number(here, *[float(shown)] * 3)


def panels(figures: dict[str, Any]) -> dict[str, list[tuple[str, Number]]]:
    """Return labels and numbers by panel title: a panel for each key, others by unit. Settings have
    no panel."""
    every = [
        n
        for n in numbers(figures)
        if n.ratio or not any(word in " ".join(n.path) for word in QUIET)
    ]
    ends: dict[tuple[str, ...], set[str]] = {}
    for n in every:
        ends.setdefault(n.path[1:], set()).add(n.path[0])
    out: dict[str, list[tuple[str, Number]]] = {}
    for n in every:
        unit = next((title for end, title in UNITS if n.path[-1].endswith(end)), "")
        if len(n.path) > 1 and len(ends[n.path[1:]]) > 1:
            out.setdefault(": ".join(n.path[1:]), []).append((n.path[0], n))
        elif n.ratio:
            out.setdefault("ratio", []).append((": ".join(n.path), n))
        elif unit:
            name = ": ".join(n.path).removesuffix(unit).rstrip(" ,:") or n.path[-1]
            out.setdefault(unit, []).append((name, n))
        elif n.low < n.high:
            out.setdefault(SHARES, []).append((": ".join(n.path), n))
    ratios_first = sorted(out, key=lambda title: not out[title][0][1].ratio)
    return {title: out[title][:MAX_BARS] for title in ratios_first[:MAX_PANELS]}


def draw(name: str, figures: dict[str, Any]) -> str:
    """Draw a benchmark as SVG. Returns an empty text if it has no number to draw."""
    every = panels(figures)
    if not every:
        return ""
    heights = [HEAD + LINE * len(bars) for bars in every.values()]
    figure, axes = drawing.new_figure(WIDTH, sum(heights), rows=len(every), heights=heights)
    for (title, bars), panel in zip(every.items(), axes[:, 0], strict=True):
        _draw_panel(panel, title, bars)
    return drawing.to_file(drawing.to_svg(figure, f"{name}: {', '.join(every)}"))


def _draw_panel(panel: Any, title: str, bars: list[tuple[str, Number]]) -> None:
    ends = [end for _, n in bars for end in (n.value, n.low, n.high)]
    log = title != SHARES and min(ends) > 0 and max(ends) / min(ends) >= DOTS_FROM
    for at, (label, n) in enumerate(bars):
        spread = f" ({number(n.low)} to {number(n.high)})" if n.low < n.high else ""
        tip = drawing.tip(f"{label}: {n.text}{spread}")
        if log:
            panel.plot(n.value, at, "o", color=BLUE, gid=tip)
        else:
            panel.barh(at, n.value, height=0.55, color=BLUE, alpha=0.8, gid=tip)
        if n.low < n.high:
            panel.plot([n.low, n.high], [at, at], "|-", color=INK, linewidth=1, gid=tip)
        panel.text(1.02, at, n.text, transform=panel.get_yaxis_transform(), va="center")
    if bars[0][1].ratio:
        panel.axvline(1, color=SOFT, linestyle=(0, (3, 3)), linewidth=1)
    if log:
        panel.set_xscale("log")
    panel.set_title(f"{title} (log scale)" if log else title)
    panel.set_yticks(
        range(len(bars)), [cut(printable(label), MAX_LABEL) for label, _ in bars], color=INK
    )
    panel.set_ylim(len(bars) - 0.5, -0.5)
    panel.set_xlim(None if log else 0)
    panel.grid(visible=False)
    panel.xaxis.set_visible(False)
    panel.spines["bottom"].set_visible(False)
