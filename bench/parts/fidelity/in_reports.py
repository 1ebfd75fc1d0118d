"""Fidelity in `bench report`: a table for each model, and the figure of KL against bits. It is the
service `fidelity_in_reports`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.reporting import drawing, words
from bench.reporting.drawing import BLUE, INK, SOFT, name_ticks
from bench.reporting.labelled_rows import is_file
from bench.reporting.overview import row_names
from bench.reporting.table import ABSENT, TextTable
from bench.reporting.view import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BITS = "bits_per_weight"
COLUMNS = {
    "kl_median": "median",
    "kl_p90": "90%",
    "kl_p99": "99%",
    "kl_p999": "99.9%",
    "kl_max": "largest",
    "ear": "EAR",
    "top1_agreement": "same top token",
}
"""Names of the metrics after the mean KL."""
NAME = "KL against bits"
CAPTION = (
    "Mean KL(original || compressed) in nats a token against bits per weight, on a log scale. "
    "Lines are 95% intervals over articles. Blue: no other row has fewer bits and less KL. The "
    "dashed line is the floor: the original beside itself in another dtype, number of threads, "
    "batch and attention kernel, if the measure floor was run."
)
TABLE_CAPTION = (
    "Mean KL(original || compressed) in nats a token with its 95% interval over articles, its "
    "percentiles, EAR (the acceptance rate of speculative decoding), and the share of tokens with "
    "the same top token. A row within the floor is no further from the original than the original "
    "is from itself."
)
MIN_POINTS = 3
"""Fewest rows of a figure."""
PANEL = (560, 360)
"""Size of the figure in pixels."""
LETTER = (5.2, 10.0)
"""Width and height of a letter of a label, in pixels."""
CORNERS = ((6, -3), (-6, -3), (6, 3), (-6, 3))
"""Places of a label beside its point in pixels, the best first. Below and to the left of a best row
is no other row."""
Box = tuple[float, float, float, float]
"""Left, lower, right and upper edge in pixels."""


@dataclass(frozen=True)
class Point:
    """A row with a mean KL."""

    row: int
    name: str
    bits: float | None
    kl: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.kl:#.3g}"
        return f"{self.kl:#.3g} ({self.low:#.3g} to {self.high:#.3g})"


def points_of(table: Table) -> list[Point]:
    """Return the compressed rows of a table that have a mean KL, in the order of the table.

    The file that the model was read from is left out: its weights are the original's.
    """
    column, dense = table.column("kl"), _dense(table)
    names, out = row_names(table), []
    whole = [names[k] for k in table.whole_rows]
    for k in table.whole_rows:
        kl = table.value(k, column)
        row = table.rows[k]
        if kl is None or k == dense or row.is_broken or is_file(row.filters):
            continue
        low, high = _interval(table, k, column, dense)
        bits = table.value(k, table.column(BITS))
        name = names[k] if whole.count(names[k]) == 1 else row.name
        out.append(Point(k, name, bits, kl, low, high))
    return out


def floor_of(table: Table) -> float:
    """Return the mean KL of the dense model beside itself, 0 if it was not measured.

    It is the larger of two: under other conditions (the measure `floor`), and under the same, where
    only a card's rounding differs.
    """
    dense = _dense(table)
    found = [table.value(dense, table.column(metric)) for metric in ("floor_kl", "kl")]
    return max(value or 0.0 for value in found)


def _dense(table: Table) -> int | None:
    for k, row in enumerate(table.rows):
        if row.filters.get("method") == "dense" and not row.is_quantized:
            return k
    return None


def _interval(
    table: Table, row: int, column: int | None, dense: int | None
) -> tuple[float | None, float | None]:
    """Return the interval of a row's KL: that of its difference to the dense row, moved by the
    dense row's KL."""
    if column is None or dense is None:
        return None, None
    floor = table.value(dense, column) or 0.0
    found = table.intervals.get((dense, row, column))
    if found:
        return max(0.0, floor + found.low), floor + found.high
    found = table.intervals.get((row, dense, column))
    if found:
        return max(0.0, floor - found.high), floor - found.low
    return None, None


def text_tables(table: Table) -> list[TextTable]:
    """Return the rows with a mean KL as a table, the least KL first. Empty without one."""
    points = sorted(points_of(table), key=lambda p: p.kl)
    if not points:
        return []
    columns = {name: table.column(name) for name in COLUMNS}
    kept = []
    for name in COLUMNS:
        if any(_text(table, point, columns[name]) for point in points):
            kept.append(name)
    floor, lines = floor_of(table), []
    for point in points:
        bits = ABSENT if point.bits is None else f"{point.bits:.4g}"
        cells = [_text(table, point, columns[name]) or ABSENT for name in kept]
        within = "yes" if point.kl <= floor and floor > 0 else ""
        lines.append([point.name, bits, str(point), *cells, within])
    heads = ["row", "bits per weight", "KL", *(COLUMNS[name] for name in kept), "within floor"]
    if not any(line[-1] for line in lines):
        heads, lines = heads[:-1], [line[:-1] for line in lines]
    notes = (f"Floor: mean KL {floor:#.3g}.",) if floor > 0 else ()
    return [TextTable(f"Fidelity: {table.title}, {table.protocol}", heads, lines, notes)]


def _text(table: Table, point: Point, column: int | None) -> str:
    cell = None if column is None else table.rows[point.row].cells[column]
    return cell.text if cell else ""


def shows(table: Table) -> tuple[list[Point], float] | None:
    """Return what the figure of a table shows, its points and its floor. None: it has too few
    rows."""
    points = [p for p in points_of(table) if p.bits and p.kl > 0]
    return (points, floor_of(table)) if len(points) >= MIN_POINTS else None


def draw(points: list[Point], floor: float) -> Figure:
    """Draw KL against bits on a log scale, with intervals, and the floor as a line."""
    figure, ((axes,),) = drawing.new_figure(*PANEL)
    style: dict[str, Any]
    best = []
    for point in points:
        is_best = not any(_is_ahead(other, point) for other in points)
        color = BLUE if is_best else SOFT
        tip = drawing.tip(f"{point.name}: KL {point}, {point.bits:.4g} bits")
        if point.low and point.high:
            axes.plot([point.bits] * 2, [point.low, point.high], color=color, gid=tip)
        axes.plot(point.bits, point.kl, "o", color=color, markersize=6, gid=tip)
        if is_best:
            best.append(point)
    if floor > 0:
        axes.axhline(floor, color=SOFT, linewidth=1, linestyle="--")
        style = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
        axes.annotate("floor", (1, floor), **style)
    axes.set(yscale="log", xlabel="bits per weight", title="mean KL, nats a token")
    axes.margins(0.1)
    name_ticks(axes.xaxis)
    name_ticks(axes.yaxis)
    figure.draw_without_rendering()  # lays out the panel, so that points have their places
    _name_points(axes, best, points)
    return figure


def _name_points(axes: Axes, named: list[Point], points: list[Point]) -> None:
    """Write the names of some points, each at the first corner in the panel that hides no point and
    no name."""
    left, right = axes.bbox.x0, axes.bbox.x1
    places = [axes.transData.transform((p.bits or 0.0, p.kl)) for p in points]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in places]
    for point in named:
        name = words.cut(point.name, drawing.MAX_LETTERS)
        x, y = axes.transData.transform((point.bits or 0.0, point.kl))
        boxes = [_box(x + dx, y + dy, dx, dy, len(name)) for dx, dy in CORNERS]
        at = 0
        for k, box in enumerate(boxes):
            is_inside = left <= box[0] and box[2] <= right
            if is_inside and not any(_overlap(box, other) for other in taken):
                at = k
                break
        taken.append(boxes[at])
        dx, dy = CORNERS[at]
        style: dict[str, Any] = {"color": INK, "size": 8, "textcoords": "offset points"}
        style |= {"ha": "left" if dx > 0 else "right", "va": "top" if dy < 0 else "bottom"}
        axes.annotate(name, (point.bits, point.kl), (dx, dy), **style)


def _box(x: float, y: float, dx: float, dy: float, letters: int) -> Box:
    """Return the place of a text that begins or ends at a point in pixels."""
    width, height = LETTER[0] * letters, LETTER[1]
    left, low = x if dx > 0 else x - width, y - height if dy < 0 else y
    return left, low, left + width, low + height


def _overlap(one: Box, other: Box) -> bool:
    across = one[0] < other[2] and other[0] < one[2]
    return across and one[1] < other[3] and other[1] < one[3]


def _is_ahead(one: Point, other: Point) -> bool:
    """Return whether a row has fewer bits and less KL than another."""
    assert one.bits is not None and other.bits is not None
    if (one.bits, one.kl) == (other.bits, other.kl):
        return False
    return one.bits <= other.bits and one.kl <= other.kl


class FidelityInReports(NamedTuple):
    """What a report shows of fidelity."""

    text_tables: Callable[[Table], list[TextTable]]
    table_caption: str
    shows: Callable[[Table], tuple[list[Point], float] | None]
    draw: Callable[[list[Point], float], Figure]
    name: str
    """Title of the figure."""
    caption: str


IN_REPORTS = FidelityInReports(text_tables, TABLE_CAPTION, shows, draw, NAME, CAPTION)
