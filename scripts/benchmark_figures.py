"""Draw the figures of docs/benchmarks.md from results/benchmarks/: bars with their spread, a panel for each kind of number.

The SVG is written here, not by matplotlib: its bytes do not change with a library's version, and its colors follow the
reader's theme.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from markupsafe import escape

from bench.reporting import html
from bench.reporting.scale import AxisScale, make_scale
from bench.reporting.words import cut

WIDTH, LEFT, RIGHT = 640, 262, 560
LINE, HEAD, GAP = 19, 26, 14
MAX_PANELS, MAX_BARS, MAX_LABEL = 10, 18, 44
DOTS_FROM = 30.0
"""From this ratio of the largest to the smallest value, dots on a log scale take the place of bars."""
QUIET = ("noise", "before", "limit", "theory")
"""Numbers with such a word are in the table alone."""
UNITS = (
    ("seconds a step", "seconds a step"), ("seconds of CPU", "seconds of CPU"), ("seconds", "seconds"), ("ms", "ms"),
    ("peak MB", "peak MB"), ("MB", "MB"), ("tokens/s", "tokens per second"), ("a processor second", "GB a processor second"),
    ("bytes", "ratio of bytes"), ("agreement", "agreement"),
)  # fmt: skip
"""The end of a key, and what its panel is called."""
SHARES = "share"
SPREAD = re.compile(r"([\d.]+) \(([\d.]+) to ([\d.]+)\)")


@dataclass(frozen=True)
class Number:
    """One number of a benchmark. path: its keys; low, high: its spread, the value where it has none."""

    path: tuple[str, ...]
    value: float
    low: float
    high: float
    ratio: bool = False

    @property
    def text(self) -> str:
        return f"{number(self.value)}×" if self.ratio else number(self.value)


def readable(key: str) -> str:
    """A key for people: no underscores, units in words."""
    key = re.sub(r"_s$", ", seconds", re.sub(r"bytes(?=_|$)", "MB", key) if key.startswith("peak_") else key)
    return key.replace("_", " ")


def number(value: float) -> str:
    """Three digits, or all of a whole number."""
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 0.99 or abs(value) >= 1 else f"{value:.6g}"


def numbers(figures: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[Number]:
    """All numbers of a benchmark's figures, with bytes in MB."""
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
    """By title: labels and numbers. Numbers of one key stand together; others by unit. Settings have no panel."""
    every = [n for n in numbers(figures) if n.ratio or not any(word in " ".join(n.path) for word in QUIET)]
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
    """A benchmark as SVG; empty if it has no number to draw."""
    parts: list[str] = []
    top = 4.0
    for title, bars in panels(figures).items():
        drawn, top = _panel(title, bars, top)
        parts += drawn
    if not parts:
        return ""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="front" role="img" aria-labelledby="t" viewBox="0 0 {WIDTH} '
        f'{top:g}" width="{WIDTH}">\n<title id="t">{escape(name)}: {escape(", ".join(panels(figures)))}</title>\n'
        f"<style>{html.figure_style()}\n.front .fill {{ fill: var(--blue); fill-opacity: .8; }}</style>\n"
        f'<rect class="paper" width="{WIDTH}" height="{top:g}"/>\n'
    )
    return head + "\n".join(parts) + "\n</svg>\n"


def _panel(title: str, bars: list[tuple[str, Number]], top: float) -> tuple[list[str], float]:
    """A panel's elements, and where it ends."""
    ends = [e for _, n in bars for e in (n.value, n.low, n.high)]
    log = title != SHARES and min(ends) > 0 and max(ends) / min(ends) >= DOTS_FROM
    scale = make_scale(ends, LEFT, RIGHT) if log else AxisScale(0.0, max(*ends, 1e-9) * 1.02, LEFT, RIGHT, False)
    ratio = bars[0][1].ratio
    note = " (log scale)" if log else ""
    out = [f'<text class="axis-name" x="2" y="{top + 14:g}">{escape(title)}{note}</text>']
    y = top + HEAD
    end = y + LINE * len(bars)
    if ratio and scale.low <= 1 <= scale.high:
        out.append(f'<line class="one" x1="{scale(1)}" x2="{scale(1)}" y1="{y - 3:g}" y2="{end:g}"/>')
    for label, n in bars:
        short, middle, x = cut(label, MAX_LABEL), y + LINE / 2 - 2, scale(n.value)
        spread = f" ({number(n.low)} to {number(n.high)})" if n.low < n.high else ""
        out.append(f"<g><title>{escape(label)}: {n.text}{spread}</title>")
        out.append(f'<text class="tick" x="{LEFT - 8}" y="{middle + 4:g}" text-anchor="end">{escape(short)}</text>')
        if log:
            out.append(f'<circle class="fill" cx="{x}" cy="{middle:g}" r="4"/>')
        else:
            out.append(f'<rect class="fill" x="{LEFT}" y="{middle - 5:g}" width="{max(x - LEFT, 0.5):g}" height="10"/>')
        if n.low < n.high:
            a, b = scale(n.low), scale(n.high)
            out.append(f'<path class="whisker" d="M{a} {middle:g}H{b}M{a} {middle - 3:g}v6M{b} {middle - 3:g}v6"/>')
        out.append(f'<text class="label on" x="{WIDTH - 4}" y="{middle + 4:g}" text-anchor="end">{n.text}</text></g>')
        y += LINE
    return out, end + GAP
