"""Figures of a leaderboard's table: Pareto fronts, ratios to the dense model, losses by track, and what each pattern costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.reporting import drawing, pareto, profile, words
from bench.reporting.drawing import HEIGHT, MAX_LETTERS, WIDTH, scale
from bench.reporting.facts import Bound
from bench.reporting.forest import FOREST_CAPTION, FOREST_TITLE, draw_forest, forest_rows
from bench.reporting.front_figure import draw_fronts
from bench.reporting.hardware import hardware_limit
from bench.reporting.heat_map import draw_profile
from bench.reporting.view import Table
from bench.system.text import printable
from methods.errors import UserError
from methods.pattern import Pattern

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIN_PATTERNS, MAX_METHODS = 2, 4
FIRST_METHODS = ("wanda", "sparsegpt")
"""Methods that come first in the figure of patterns."""
PATTERN_CAPTION = (
    "What a pattern costs, without a quantizer. Below each pattern: the most that hardware can speed up its arithmetic. "
    "Sparse tensor cores run 2:4 at 2 times; (2N-2):2N, such as 6:8, as windows of 2:4 at N/(N-1) times; 4:8 and "
    "unstructured patterns not at all."
)


@dataclass(frozen=True)
class TableFigure:
    """A figure with its title, its caption and its SVG element."""

    title: str
    caption: str
    svg: str


def draw_all(table: Table, name: str) -> list[TableFigure]:
    """Draw all figures of a table. name: the name of its section."""
    title = ", ".join(filter(None, (name, table.protocol or table.title)))
    out = [
        _make(f"{title}: {front.y.name} against {front.x.name}", pareto.describe(front), draw_fronts([[front]]))
        for front in pareto.fronts(table)
    ]
    if rows := forest_rows(table):
        text = "; ".join(f"{row} {words.ratio(*x.parts)}" for row, x in rows)
        out.append(_make(f"{title}: {FOREST_TITLE}", FOREST_CAPTION, draw_forest(rows), text))
    if ratios := pattern_ratios(table):
        each = ((method, pattern, x) for method, own in ratios.items() for pattern, x in own.items())
        text = "; ".join(f"{method} {pattern} {words.ratio(*x.parts)}" for method, pattern, x in each)
        out.append(_make(f"{title}: what a pattern costs", PATTERN_CAPTION, draw_patterns(ratios), text))
    if profile.rows_of(table):
        out.append(draw_tracks(table, title))
    return out


def _make(title: str, caption: str, figure: Figure, text: str = "") -> TableFigure:
    """Return a figure as SVG. text: description for readers who do not see it, by default the caption."""
    return TableFigure(title, caption, drawing.to_svg(figure, title, text or caption))


def draw_tracks(table: Table, title: str) -> TableFigure:
    """Draw the profile of a table that has one."""
    rows, names = profile.rows_of(table), profile.names_of(table)
    text = "; ".join(
        f"{table.rows[k].name} {name} {words.percent(*loss.loss.parts)}"
        for k in rows
        for name, loss in table.facts(k).tracks.items()
    )
    return _make(f"{title}: what each track loses", profile.CAPTION, draw_profile(table, rows, names), text)


def pattern_ratios(table: Table) -> dict[str, dict[str, Bound]]:
    """Return ratios to dense by method and pattern, of methods with MIN_PATTERNS patterns. Quantized rows do not count."""
    ratios: dict[str, dict[str, Bound]] = {}
    for method, pattern, bound in _unquantized(table):
        ratios.setdefault(method, {}).setdefault(pattern, bound)
    several = [m for m, by_pattern in ratios.items() if len(by_pattern) >= MIN_PATTERNS]
    return {
        m: ratios[m] for m in sorted(several, key=lambda m: (m not in FIRST_METHODS, -len(ratios[m]), m))[:MAX_METHODS]
    }


def _unquantized(table: Table) -> Iterator[tuple[str, str, Bound]]:
    for k in table.whole_rows:
        row = table.rows[k]
        pattern, facts = row.filters["pattern"], row.facts
        if facts and facts.ratio and not (row.is_quantized or pattern == "dense" or facts.broken):
            try:
                Pattern.parse(pattern)
            except UserError:
                continue  # a name of another program's pattern
            yield row.filters["method"], pattern, facts.ratio


def draw_patterns(ratios: dict[str, dict[str, Bound]]) -> Figure:
    """Draw each method's ratios, grouped by pattern, the pattern that keeps the fewest weights first."""
    patterns = sorted({pattern for own in ratios.values() for pattern in own}, key=_kept)
    figure, ((axes,),) = drawing.new_figure(WIDTH, HEIGHT)
    for k, (method, own) in enumerate(ratios.items()):
        color = drawing.SERIES[k]
        for name, ratio in own.items():
            at = patterns.index(name) + 0.12 * (k - (len(ratios) - 1) / 2)
            tip = drawing.tip(f"{method} {name}: {words.ratio(*ratio.parts)}")
            axes.plot([at, at], ratio.ends, color=color, gid=tip)
            axes.plot(at, ratio.value, "osD^"[k], color=color, markersize=6.5, gid=tip)
        axes.plot([], [], "osD^"[k], color=color, label=words.cut(printable(method), MAX_LETTERS))
    axes.set_xticks(range(len(patterns)), [f"{p}\n{_describe_limit(Pattern.parse(p))}" for p in patterns])
    axes.set_xlim(-0.5, len(patterns) - 0.5)
    axes.grid(visible=False, axis="x")
    ends = [end for own in ratios.values() for ratio in own.values() for end in (*ratio.ends, 1.0)]
    scale(axes, "y", ends, "perplexity ratio to dense")
    axes.legend()
    return figure


def _kept(name: str) -> tuple[float, bool, int]:
    """Sort key: few weights kept first; n:m before unstructured."""
    pattern = Pattern.parse(name)
    kept = 1 - pattern.sparsity if pattern.unstructured else pattern.n / pattern.m
    return (kept, pattern.unstructured, pattern.m)


def _describe_limit(pattern: Pattern) -> str:
    limit = hardware_limit(pattern)
    return "none" if limit is None else f"{limit:.3g}×"
