"""Figures of a leaderboard's table: Pareto fronts, ratios to the dense model, losses by track, and
what each pattern costs."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from bench.catalog import registry
from bench.parts.leaderboard.front_figure import draw_fronts
from bench.reporting import drawing, pareto, profile, words
from bench.reporting.drawing import BLUE, HEIGHT, INK, MAX_LETTERS, SOFT, WIDTH, scale
from bench.reporting.facts import Bound
from bench.reporting.forest import FOREST_CAPTION, FOREST_TITLE, draw_forest, forest_rows
from bench.reporting.hardware import hardware_limit
from bench.reporting.table import ABSENT
from bench.reporting.view import Table
from bench.results import metrics
from bench.results.computed import memory
from bench.system.text import printable
from methods.contract.errors import UserError
from methods.contract.pattern import Pattern

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIN_PATTERNS, MAX_METHODS = 2, 4
FIRST_METHODS = ("wanda", "sparsegpt")
"""Methods that come first in the figure of patterns."""
PATTERN_CAPTION = (
    "What a pattern costs, without a quantizer. Below each pattern: the most that hardware can "
    "speed up its arithmetic. Sparse tensor cores with factors of 8 or 16 bits run 2:4 at 2 times; "
    "(2N-2):2N, such as 6:8, as windows of 2:4 at N/(N-1) times; 4:8 and unstructured patterns not "
    "at all. With factors of 4 bits they run pairs:4:8 alone."
)

FIDELITY = "fidelity_in_reports"
NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"


@dataclass(frozen=True)
class TableFigure:
    """A figure with its title, its caption and its SVG element."""

    title: str
    caption: str
    svg: str


def draw_all(table: Table, name: str) -> list[TableFigure]:
    """Draw all figures of a table. name: the name of its section."""
    title = _title(table, name)
    out = [_draw_front(front, title) for front in pareto.fronts(table)]
    rows = forest_rows(table)
    if rows:
        text = "; ".join(f"{row} {words.ratio(*x.parts)}" for row, x in rows)
        out.append(
            _make(
                f"{title}: {FOREST_TITLE}", FOREST_CAPTION, partial(draw_forest, rows), rows, text
            )
        )
    ratios = pattern_ratios(table)
    if ratios:
        texts = []
        for method, own in ratios.items():
            texts += [f"{method} {pattern} {words.ratio(*x.parts)}" for pattern, x in own.items()]
        draw = partial(draw_patterns, ratios)
        name = f"{title}: what a pattern costs"
        out.append(_make(name, PATTERN_CAPTION, draw, ratios, "; ".join(texts)))
    if profile.rows_of(table):
        out.append(draw_tracks(table, title))
    fidelity = find_fidelity()
    shown = fidelity.shows(table) if fidelity else None
    if shown:
        name, draw = f"{title}: {fidelity.name}", partial(fidelity.draw, *shown)
        out.append(_make(name, fidelity.caption, draw, shown))
    return out


def find_fidelity() -> Any:
    """Return the service that shows fidelity in reports, or None if its part is not there."""
    if FIDELITY not in registry.names("services"):
        return None
    return registry.load(registry.lookup("services", FIDELITY))


def draw_size(table: Table, name: str) -> list[TableFigure]:
    """Draw quality against size, or nothing without three rows that have both."""
    fronts = (f for f in pareto.fronts(table) if f.x.metric in (metrics.SIZE, pareto.BITS))
    return [_draw_front(front, _title(table, name)) for front in itertools.islice(fronts, 1)]


def _title(table: Table, name: str) -> str:
    return ", ".join(filter(None, (name, table.protocol or table.title)))


def _draw_front(front: pareto.Front, title: str) -> TableFigure:
    return _make(
        f"{title}: {front.y.name} against {front.x.name}",
        pareto.describe(front),
        partial(draw_fronts, [[front]]),
        ([astuple(replace(c, derived=None)) for c in (front.x, front.y)], front.points),
    )


def _make(
    title: str, caption: str, draw: Callable[[], Figure], shows: object, text: str = ""
) -> TableFigure:
    """Return a figure as SVG, which is drawn if this machine has not drawn it before.

    shows: all that is drawn, of which the text of `repr` is whole. text: description for readers
    who do not see it, by default the caption.
    """
    about = ("figure", title, text or caption, repr(shows))
    svg = memory(__name__).get(*about)
    if svg is None:
        svg = drawing.to_svg(draw(), title, text or caption)
        memory(__name__).put(svg, *about)
    return TableFigure(title, caption, svg)


def draw_tracks(table: Table, title: str) -> TableFigure:
    """Draw the profile of a table that has one."""
    rows, names = profile.rows_of(table), profile.names_of(table)
    text = "; ".join(
        f"{table.rows[k].name} {name} {words.percent(*loss.loss.parts)}"
        for k in rows
        for name, loss in table.facts(k).tracks.items()
    )
    shows = []
    for k in rows:
        facts = table.facts(k)
        shows.append((table.rows[k].name, facts.bytes, facts.tracks))
    draw = partial(draw_profile, table, rows, names)
    return _make(f"{title}: what each track loses", profile.CAPTION, draw, (names, shows), text)


def draw_profile(table: Table, rows: Sequence[int], names: Sequence[str]) -> Figure:
    """Draw a heat map of losses, rows by tracks, each cell with its value and its interval. Blue:
    the interval leaves out 0."""
    from matplotlib.patches import Rectangle

    figure, ((axes,),) = drawing.new_figure(205 + 86 * len(names), 64 + 34 * len(rows))
    losses = chain.from_iterable(table.facts(k).tracks.values() for k in rows)
    most = max((abs(one.loss.value) for one in losses), default=0.0) or 1.0
    for y, k in enumerate(rows):
        for x, name in enumerate(names):
            one = table.facts(k).tracks.get(name)
            if one is None:
                axes.text(x, y, ABSENT, ha="center", va="center", color=SOFT)
                continue
            value, low, high = one.loss.parts
            alpha, color = 0.06 + 0.5 * (abs(value) / most) ** 0.5, INK
            if low is not None and high is not None and low <= 0 <= high:
                alpha, color = 0.0, SOFT
            axes.add_patch(
                Rectangle(
                    (x - 0.48, y - 0.46), 0.96, 0.92, facecolor=BLUE, alpha=alpha, linewidth=0
                )
            )
            tip = drawing.tip(f"{table.rows[k].name}, {name}: {words.percent(value, low, high)}")
            axes.text(
                x,
                y - 0.14,
                words.percent(value),
                ha="center",
                va="center",
                color=color,
                gid=tip,
            )
            if low is not None and high is not None:
                ends = f"{words.hundredths(low)} to {words.hundredths(high)}{profile.asterisk(one)}"
                axes.text(x, y + 0.25, ends, ha="center", va="center", color=SOFT, fontsize=7.5)
    axes.set_yticks(range(len(rows)), [_two_lines(table, k) for k in rows], color=INK, fontsize=8.5)
    axes.set_xticks(range(len(names)), names, color=INK)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    axes.xaxis.tick_top()
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return figure


def _two_lines(table: Table, k: int) -> str:
    """Return the name of a row, with its size, in two lines. A name that does not fit is cut."""
    name, size = printable(table.rows[k].name), table.facts(k).bytes
    end = "" if size is None else f", {size / 1e6:.4g}{NO_BREAK_SPACE}MB"
    fitting = (
        textwrap.wrap(words.cut(name, length) + end, MAX_LETTERS)
        for length in range(len(name), 0, -1)
    )
    return "\n".join(next(lines for lines in fitting if len(lines) <= 2))


def pattern_ratios(table: Table) -> dict[str, dict[str, Bound]]:
    """Return ratios to dense by method and pattern, of methods with MIN_PATTERNS patterns.
    Quantized rows do not count."""
    ratios: dict[str, dict[str, Bound]] = {}
    for method, pattern, bound in _unquantized(table):
        ratios.setdefault(method, {}).setdefault(pattern, bound)
    several = [m for m, by_pattern in ratios.items() if len(by_pattern) >= MIN_PATTERNS]
    several.sort(key=lambda m: (m not in FIRST_METHODS, -len(ratios[m]), m))
    return {m: ratios[m] for m in several[:MAX_METHODS]}


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
    """Draw each method's ratios, grouped by pattern, the pattern that keeps the fewest weights
    first."""
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
    axes.set_xticks(
        range(len(patterns)), [f"{p}\n{_describe_limit(Pattern.parse(p))}" for p in patterns]
    )
    axes.set_xlim(-0.5, len(patterns) - 0.5)
    axes.grid(visible=False, axis="x")
    ends = [end for own in ratios.values() for ratio in own.values() for end in (*ratio.ends, 1.0)]
    scale(axes, "y", ends, "perplexity ratio to dense")
    axes.legend()
    return figure


def _kept(name: str) -> tuple[float, bool, int, str]:
    """Sort key: few weights kept first; n:m before unstructured."""
    pattern = Pattern.parse(name)
    kept = 1 - pattern.sparsity if pattern.unstructured else pattern.n / pattern.m
    return (kept, pattern.unstructured, pattern.m, name)


def _describe_limit(pattern: Pattern) -> str:
    limit = hardware_limit(pattern)
    return "none" if limit is None else f"{limit:.3g}×"
