"""The profile of a table as a heat map: what each row loses on each track."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.reporting import drawing, words
from bench.reporting.drawing import BLUE, INK, MAX_LETTERS, SOFT
from bench.reporting.table import ABSENT
from bench.reporting.view import Table
from bench.system.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"


def draw_profile(table: Table, rows: Sequence[int], names: Sequence[str]) -> Figure:
    """Draw a heat map of losses, rows by tracks, each cell with its value and its interval. Blue: the interval leaves out 0."""
    from matplotlib.patches import Rectangle

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
            alpha = 0.06 + 0.5 * (abs(value) / most) ** 0.5 if sure else 0.0
            axes.add_patch(Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=BLUE, alpha=alpha, linewidth=0))
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
