"""Figures of a leaderboard's table: Pareto fronts, ratios to the dense model, and what each pattern costs."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.reporting import drawing, pareto, profile, words
from bench.reporting.facts import Bound
from bench.reporting.hardware import hardware_limit
from bench.reporting.pareto import Front, FrontPoint
from bench.reporting.smaller_models import NOT_MADE
from bench.reporting.table import ABSENT, format_number
from bench.reporting.view import Table
from bench.system.suggest import describe_unknown
from bench.system.text import printable
from methods.errors import UserError
from methods.pattern import Pattern

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bench.compare.verdict import Row

WIDTH, HEIGHT = 400, 310
INK, SOFT, PAPER, BLUE = (drawing.LIGHT[name] for name in ("ink", "soft", "paper", "blue"))
LOG_FROM = 4.0
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""
MAX_LABELS = 40
"""Number of points from which only those on the front have a label."""
MAX_LETTERS = 32
"""Longest line of a row's label. The table and the tooltip have the whole name."""
NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"
PAIR_WIDTH, PAIR_LETTERS = 620, 60
"""Size of a figure of two rows: its labels have the metric, too."""
PLACES = ((8, 0, "left", "center"), (-8, 0, "right", "center"), (0, 7, "center", "bottom"), (0, -7, "center", "top"),
          (-4, 7, "left", "bottom"), (-4, -7, "left", "top"))  # fmt: skip
"""Places for a label beside its point: pixels to the right and up, and its alignment."""
MAX_FOREST_ROWS, MIN_FOREST_ROWS = 40, 2
MIN_PATTERNS, MAX_METHODS = 2, 4
FIRST_METHODS = ("wanda", "sparsegpt")
"""Methods that come first in the figure of patterns."""
FOREST_TITLE = "perplexity of each row as a ratio to the dense model"
FOREST_CAPTION = (
    "Perplexity over the dense model's, with the 95% interval of the pairs of windows and seeds. Blue: the interval leaves "
    "out 1."
)
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
        _make(f"{title}: {front.y.name} against {front.x.name}", pareto.describe(front), draw_front(front))
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


def draw_profile(table: Table, rows: Sequence[int], names: Sequence[str]) -> Figure:
    """Draw a heat map of losses, rows by tracks, each cell with its value and its interval. Blue: the interval leaves out 0."""
    figure, ((axes,),) = drawing.new_figure(205 + 86 * len(names), 64 + 34 * len(rows))
    losses = [[table.facts(k).tracks.get(name) for name in names] for k in rows]
    most = max((abs(x.loss.value) for line in losses for x in line if x), default=0.0) or 1.0
    for y, (k, line) in enumerate(zip(rows, losses, strict=True)):
        for x, (name, one) in enumerate(zip(names, line, strict=True)):
            if one is None:
                axes.text(x, y, ABSENT, ha="center", va="center", color=SOFT)
                continue
            value, low, high = one.loss.parts
            sure = low is None or high is None or not low <= 0 <= high
            axes.add_patch(_cell(x, y, BLUE, 0.06 + 0.5 * (abs(value) / most) ** 0.5 if sure else 0.0))
            tip = drawing.tip(f"{table.rows[k].name}, {name}: {words.percent(value, low, high)}")
            axes.text(x, y - 0.14, words.percent(value), ha="center", va="center", color=INK if sure else SOFT, gid=tip)
            if low is not None and high is not None:
                ends = f"{words.hundredths(low)} to {words.hundredths(high)}"
                axes.text(x, y + 0.25, ends, ha="center", va="center", color=SOFT, fontsize=7.5)
    axes.set_yticks(range(len(rows)), [_two_lines(table, k) for k in rows], color=INK, fontsize=8.5)
    axes.set_xticks(range(len(names)), names, color=INK)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    axes.xaxis.tick_top()
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return figure


def _two_lines(table: Table, k: int) -> str:
    """Return the name of a row, with its bits, in two lines. A name that does not fit is cut."""
    name, bits = printable(table.rows[k].name), table.facts(k).bits
    end = "" if bits is None else f", {bits:.3g}{NO_BREAK_SPACE}bits"
    fitting = (textwrap.wrap(words.cut(name, length) + end, MAX_LETTERS) for length in range(len(name), 0, -1))
    return "\n".join(next(lines for lines in fitting if len(lines) <= 2))


def _cell(x: float, y: float, color: str, alpha: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=color, alpha=alpha, linewidth=0)


def draw_front(front: Front) -> Figure:
    """Draw all points, the front as a step line, and as many names as fit."""
    return draw_fronts([[front]])


def draw_fronts(lines: Sequence[Sequence[Front]]) -> Figure:
    """Draw lines of fronts, a panel for each."""
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
    where: Literal["pre", "post"] = (
        "pre" if front.x.sign < 0 else "post"
    )  # between two rows the worse one is what can be had
    axes.step([p.x / mega for p in optimal], [p.y for p in optimal], where=where, color=BLUE, alpha=0.55)
    for p in front.points:
        color = BLUE if p.on_front else SOFT
        tip = drawing.tip(f"{p.name}: {p.text}")
        if p.spread:
            axes.plot([p.x / mega] * 2, [p.y - p.spread, p.y + p.spread], color=color, linewidth=1.2, gid=tip)
        axes.plot(p.x / mega, p.y, "o", color=color, markersize=7, markerfacecolor=color if p.dense else PAPER, gid=tip)
    ends = [end for p in front.points for end in (p.y - p.spread, p.y + p.spread)]
    _scale(axes, "x", [p.x / mega for p in front.points], f"{front.x.label}{unit}")
    _scale(axes, "y", ends, front.y.name)
    axes.margins(0.1)


def _scale(axes: Axes, which: str, values: Sequence[float], name: str) -> None:
    """Make an axis logarithmic if its values are far apart, and name it. The name of y is above the panel."""
    log = min(values) > 0 and max(values) / min(values) >= LOG_FROM
    if log:
        axes.set(**{f"{which}scale": "log"})
    name += " (log)" if log else ""
    drawing.name_ticks(axes.xaxis if which == "x" else axes.yaxis)
    if which == "x":
        axes.set_xlabel(name)
    else:
        axes.set_title(name)


def _add_labels(axes: Axes, points: Sequence[FrontPoint], mega: float) -> None:
    """Name the points, those on the front first. A name that fits nowhere is left out."""
    from matplotlib.transforms import Bbox

    panel = axes.get_window_extent()
    taken = [axes.transData.transform((p.x / mega, p.y)) for p in points]
    boxes: list[Any] = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in taken]
    named = points if len(points) < MAX_LABELS else [p for p in points if p.on_front]
    for p in sorted(named, key=lambda p: (not p.on_front, -p.y, p.x)):
        for letters in (MAX_LETTERS, MAX_LETTERS // 2) if p.on_front else (MAX_LETTERS,):
            if any(_place(axes, p, mega, letters, place, panel, boxes) for place in PLACES):
                break


def _place(axes: Axes, p: FrontPoint, mega: float, letters: int, place: Any, panel: Any, boxes: list[Any]) -> bool:
    """Add a point's label and its box, if it overlaps no other box. Returns whether it does not."""
    right, up, horizontal, vertical = place
    weight, color = ("bold", INK) if p.on_front else ("normal", SOFT)
    name = printable(p.name.removesuffix(f" ({NOT_MADE})"))
    label = axes.annotate(
        words.cut(name, letters), (p.x / mega, p.y), (right, up), textcoords="offset points", ha=horizontal, va=vertical,
        weight=weight, color=color,
    )  # fmt: skip
    label.set_in_layout(False)
    box = label.get_window_extent()
    inside = panel.x0 <= box.x0 and box.x1 <= panel.x1 and panel.y0 <= box.y0 and box.y1 <= panel.y1
    if inside and not any(box.overlaps(other) for other in boxes):
        boxes.append(box)
        return True
    label.remove()
    return False


def forest_rows(table: Table) -> list[tuple[str, Bound]]:
    """Return the rows with a ratio to dense, the best first. Empty if they are fewer than MIN_FOREST_ROWS."""
    every = [(table.rows[k].name, table.rows[k].facts) for k in table.whole_rows]
    rows = [(name, facts.ratio) for name, facts in every if facts and facts.ratio and not facts.broken]
    rows.sort(key=lambda row: (row[1].value, *row[1].ends, row[0]))
    return rows if len(rows) >= MIN_FOREST_ROWS else []


def draw_forest(
    rows: Sequence[tuple[str, Bound]],
    name: str = "perplexity ratio to dense, 95% interval",
    describe: Callable[..., str] = words.ratio,
    reference: float | None = 1,
) -> Figure:
    """Draw a figure of one panel, as `add_forest` draws it: by default each row's ratio, the best at the top."""
    figure, ((axes,),) = drawing.new_figure(WIDTH, _forest_height(rows))
    add_forest(axes, rows, name, describe, reference)
    return figure


def _forest_height(rows: Sequence[Any]) -> int:
    return 60 + 17 * min(len(rows), MAX_FOREST_ROWS)


def add_forest(
    axes: Axes,
    rows: Sequence[tuple[str, Bound]],
    name: str,
    describe: Callable[..., str],
    reference: float | None = None,
    letters: int = MAX_LETTERS,
) -> None:
    """Draw values with their intervals, the first row at the top.

    name: name of the values; describe: returns a value in words; reference: value of no change; letters: longest label of
    a row. Blue: the interval leaves the reference out.
    """
    shown = rows[:MAX_FOREST_ROWS]
    if reference is not None:
        axes.axvline(reference, color=SOFT, linestyle=(0, (3, 3)), linewidth=1)
    for at, (label, bound) in enumerate(shown):
        low, high = bound.ends
        color = SOFT if reference is not None and low <= reference <= high else BLUE
        tip = drawing.tip(f"{label}: {describe(*bound.parts)}")
        axes.plot([low, high], [at, at], color=color, linewidth=1.2, gid=tip)
        axes.plot(bound.value, at, "o", color=color, markersize=6, gid=tip)
        axes.text(1.02, at, describe(bound.value), transform=axes.get_yaxis_transform(), va="center", color=SOFT)
    axes.set_yticks(range(len(shown)), [words.cut(printable(label), letters) for label, _ in shown], color=INK)
    axes.set_ylim(len(shown) - 0.5, -0.7)
    axes.grid(visible=False, axis="y")
    ends = [end for _, bound in shown for end in (*bound.ends, *([] if reference is None else [reference]))]
    best = f", best {MAX_FOREST_ROWS} of {len(rows)} rows" if len(rows) > MAX_FOREST_ROWS else ""
    _scale(axes, "x", ends, name + best)


def draw_column(table: Table, metric: str, file: Path) -> Path:
    """Draw the rows of a table by one metric, with their spread. metric: "" for the ratio to the dense model.

    Raises:
        UserError: the table has no such numbers.
    """
    title = f"{table.title}, {table.protocol}" if table.protocol else table.title
    if not metric and (rows := forest_rows(table)):
        return drawing.save_figure(draw_forest(rows), file, f"{title}: {FOREST_TITLE}")
    found = [c for c, column in enumerate(table.columns) if metric in (column.metric, column.name)]
    found = found or ([table.ranked_by] if not metric and table.ranked_by is not None else [])
    if not found:
        known = dict.fromkeys(column.metric for c, column in enumerate(table.columns) if _values(table, c))
        raise UserError(describe_unknown(f"metric of {title}", metric, known))
    column, bounds = table.columns[found[0]], _values(table, found[0])
    if not bounds:
        raise UserError(f"no row of {title} has a number in the column {column.name}: name another with --metric")
    bounds.sort(key=lambda row: (column.sign * row[1].value, row[0]))
    figure = draw_forest(bounds, column.name, lambda value, *ends: format_number(value, None, column.unit), None)
    return drawing.save_figure(figure, file, f"{title}: {column.name}")


def _values(table: Table, column: int) -> list[tuple[str, Bound]]:
    cells = ((table.rows[k].name, table.rows[k].cells[column]) for k in table.whole_rows)
    return [
        (name, Bound(c.value, c.value - (c.spread or 0), c.value + (c.spread or 0)))
        for name, c in cells
        if c and c.value is not None
    ]


def draw_pair(rows: Sequence[Row], file: Path, before: str, after: str) -> Path:
    """Draw a comparison: a panel of ratios and one of differences, with their intervals. before, after: names of the sides.

    Raises:
        UserError: no number of it has an estimate.
    """
    title = f"{after} against {before}"
    panels: list[Any] = []
    signed: Callable[..., str] = partial(words.quantity, "{:+.3g}".format, "")
    for is_ratio, name, describe in (
        (True, f"{after} / {before}", words.ratio),
        (False, f"{after} − {before}", signed),
    ):
        of_kind = [(row, Bound(*row.effect)) for row in rows if row.effect and row.ratio == is_ratio]
        # Counts that are equal say nothing.
        some = [(f"{row.metric} {row.name}", x) for row, x in of_kind if x.parts != (is_ratio,) * 3]
        if some:
            head = f"{words.cut(printable(name), PAIR_LETTERS)}, 95% interval"
            panels.append((some, head, describe, float(is_ratio)))
    if not panels:
        raise UserError(f"{title}: nothing to draw, because no pair of numbers has an interval")
    heights = [_forest_height(some) for some, *_ in panels]
    figure, axes = drawing.new_figure(PAIR_WIDTH, sum(heights), rows=len(panels), heights=heights)
    for (some, name, describe, reference), panel in zip(panels, axes[:, 0], strict=True):
        add_forest(panel, some, name, describe, reference, letters=PAIR_LETTERS)
    return drawing.save_figure(figure, file, title)


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
    _scale(axes, "y", ends, "perplexity ratio to dense")
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
