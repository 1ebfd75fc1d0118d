"""Forest plots: the values of rows with their intervals, of a table and of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.reporting import drawing, words
from bench.reporting.drawing import BLUE, INK, MAX_LETTERS, SOFT, WIDTH, scale
from bench.reporting.facts import Bound
from bench.reporting.table import format_number
from bench.reporting.view import Table
from bench.system.suggest import describe_unknown
from bench.system.text import printable
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bench.comparing.verdict import Row

MAX_FOREST_ROWS, MIN_FOREST_ROWS = 40, 2
PAIR_WIDTH, PAIR_LETTERS = 620, 60
"""Size of a figure of two rows: its labels have the metric, too."""
FOREST_TITLE = "perplexity of each row as a ratio to the dense model"
FOREST_CAPTION = (
    "Perplexity over the dense model's, with the 95% interval of the pairs of windows and seeds. "
    "Blue: the interval leaves out 1."
)


def forest_rows(table: Table) -> list[tuple[str, Bound]]:
    """Return the rows with a ratio to dense, the best first. Empty if they are fewer than
    MIN_FOREST_ROWS."""
    every = [(table.rows[k].name, table.rows[k].facts) for k in table.whole_rows]
    rows = [
        (name, facts.ratio) for name, facts in every if facts and facts.ratio and not facts.broken
    ]
    rows.sort(key=lambda row: (row[1].value, *row[1].ends, row[0]))
    return rows if len(rows) >= MIN_FOREST_ROWS else []


def draw_forest(
    rows: Sequence[tuple[str, Bound]],
    name: str = "perplexity ratio to dense, 95% interval",
    describe: Callable[..., str] = words.ratio,
    reference: float | None = 1,
) -> Figure:
    """Draw a figure of one panel, as `add_forest` draws it: by default each row's ratio, the best
    at the top."""
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

    name: name of the values; describe: returns a value in words; reference: value of no change;
    letters: longest label of a row. Blue: the interval leaves the reference out.
    """
    shown = rows[:MAX_FOREST_ROWS]
    if reference is not None:
        axes.axvline(reference, color=SOFT, linestyle=(0, (3, 3)), linewidth=1)
    for at, (label, bound) in enumerate(shown):
        low, high = bound.ends
        unsure = reference is not None and (bound.low is None or low <= reference <= high)
        color = SOFT if unsure else BLUE
        tip = drawing.tip(f"{label}: {describe(*bound.parts)}")
        axes.plot([low, high], [at, at], color=color, linewidth=1.2, gid=tip)
        axes.plot(bound.value, at, "o", color=color, markersize=6, gid=tip)
        axes.text(
            1.02,
            at,
            describe(bound.value),
            transform=axes.get_yaxis_transform(),
            va="center",
            color=SOFT,
        )
    axes.set_yticks(
        range(len(shown)), [words.cut(printable(label), letters) for label, _ in shown], color=INK
    )
    axes.set_ylim(len(shown) - 0.5, -0.7)
    axes.grid(visible=False, axis="y")
    ends = [end for _, bound in shown for end in bound.ends]
    if reference is not None:
        ends.append(reference)
    if len(rows) > MAX_FOREST_ROWS:
        name += f",\nfirst {MAX_FOREST_ROWS} of {len(rows)} rows"
    scale(axes, "x", ends, name)


def draw_column(table: Table, metric: str, file: Path) -> Path:
    """Draw the rows of a table by one metric, with their spread. metric: "" for the ratio to the
    dense model."""
    title = ", ".join(filter(None, (table.title, table.protocol)))
    rows = [] if metric else forest_rows(table)
    if rows:
        return drawing.save_figure(draw_forest(rows), file, f"{title}: {FOREST_TITLE}")
    found = [c for c, column in enumerate(table.columns) if metric in (column.metric, column.name)]
    if not found and not metric and table.ranked_by is not None:
        found = [table.ranked_by]
    if not found:
        known = dict.fromkeys(
            column.metric for c, column in enumerate(table.columns) if _values(table, c)
        )
        if not metric:
            remedy = "measure more rows"
            if known:
                remedy = f"name another column with --metric ({', '.join(known)})"
            raise UserError(
                f"{title} has neither a ranked column nor {MIN_FOREST_ROWS} rows with a ratio to "
                f"the dense model: {remedy}"
            )
        raise UserError(describe_unknown(f"metric of {title}", metric, known))
    column, bounds = table.columns[found[0]], _values(table, found[0])
    if not bounds:
        raise UserError(
            f"no row of {title} has a number in the column {column.name}: name another with "
            "--metric"
        )
    bounds.sort(key=lambda row: (column.sign * row[1].value, row[0]))
    figure = draw_forest(
        bounds, column.name, lambda value, *ends: format_number(value, None, column.unit), None
    )
    return drawing.save_figure(figure, file, f"{title}: {column.name}")


def _values(table: Table, column: int) -> list[tuple[str, Bound]]:
    cells = ((table.rows[k].name, table.rows[k].cells[column]) for k in table.whole_rows)
    return [
        (name, Bound(c.value, c.value - (c.spread or 0), c.value + (c.spread or 0)))
        for name, c in cells
        if c and c.value is not None
    ]


def draw_pair(rows: Sequence[Row], file: Path, before: str, after: str) -> Path:
    """Draw a comparison: a panel of ratios and one of differences, with their intervals. before,
    after: names of the sides."""
    title = f"{after} against {before}"
    panels: list[Any] = []
    signed: Callable[..., str] = partial(words.quantity, "{:+.3g}".format, "")
    for is_ratio, name, describe in (
        (True, f"{after} / {before}", words.ratio),
        (False, f"{after} − {before}", signed),
    ):
        bounds = (
            (f"{r.metric} {r.name}", Bound(*r.effect))
            for r in rows
            if r.effect and r.ratio == is_ratio
        )
        # Counts that are equal say nothing.
        some = [(label, bound) for label, bound in bounds if bound.parts != (is_ratio,) * 3]
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
