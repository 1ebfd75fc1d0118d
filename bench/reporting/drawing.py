"""Draw with matplotlib: one style for all figures, SVG that follows light and dark, the same bytes
on every processor."""

from __future__ import annotations

import hashlib
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from bench.system.files import atomic_write, write_file
from bench.system.text import printable
from methods.contract.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

LIGHT = {
    "paper": "#fdfcfa",
    "ink": "#1a1a1a",
    "soft": "#5b5b57",
    "line": "#dcd9d2",
    "faint": "#f3f1ec",
    "blue": "#005a9c",
    "red": "#a8380c",
}
DARK = {
    "paper": "#16181b",
    "ink": "#e9e7e2",
    "soft": "#a5a39d",
    "line": "#34373b",
    "faint": "#1f2226",
    "blue": "#7cc0f5",
    "red": "#f2a07b",
}
"""Colors of the page and its figures by their role, on light and on dark paper."""
INK, SOFT, PAPER, BLUE = (LIGHT[name] for name in ("ink", "soft", "paper", "blue"))
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", LIGHT["ink"])
"""Colors of Okabe and Ito, which color-blind readers can distinguish."""
WIDTH, HEIGHT = 400, 310
"""Size of a panel in pixels."""
LOG_FROM = 4.0
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""
MAX_LETTERS = 32
"""Longest line of a row's label. The table and the tooltip have the whole name."""
SUFFIXES = (".svg", ".png", ".pdf")
FONT = "system-ui, 'DejaVu Sans', Verdana, sans-serif"
SVG = "http://www.w3.org/2000/svg"
TIP = "tip:"
"""Prefix of the id of an artist with a tooltip."""


def tip(text: str) -> str:
    """Return the id that gives an artist a tooltip."""
    return TIP + printable(text)


def new_figure(
    width: float,
    height: float,
    rows: int = 1,
    columns: int = 1,
    heights: Sequence[float] | None = None,
) -> tuple[Figure, Any]:
    """Make a figure of this size in pixels. Returns it and its panels as an array [rows, columns].
    heights: of the rows."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    soft, line, ink = LIGHT["soft"], LIGHT["line"], LIGHT["ink"]
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "cast-bench",
        "text.parse_math": False,
        "path.simplify": False,
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "axes.titlesize": 10.5,
        "axes.titlelocation": "left",
        "figure.titlesize": 11,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.titlecolor": ink,
        "axes.edgecolor": soft,
        "xtick.color": soft,
        "ytick.color": soft,
        "xtick.labelsize": 10,
        "ytick.labelsize": 10,
        "legend.fontsize": 10,
        "legend.frameon": False,
        "axes.facecolor": LIGHT["paper"],
        "figure.facecolor": LIGHT["paper"],
        "savefig.facecolor": LIGHT["paper"],
        "axes.grid": True,
        "grid.color": line,
        "grid.linewidth": 0.8,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "lines.linewidth": 1.4,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
    }
    matplotlib.rcParams.update(style)
    # The reader's fonts draw the letters of an SVG, so the font here need not have all.
    warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
    figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
    FigureCanvasAgg(figure)  # measures text
    return figure, figure.subplots(rows, columns, squeeze=False, height_ratios=heights)


def choose_colors(count: int) -> list[str]:
    """Return a color for each series: those of SERIES, or steps of a color map if they are too
    few."""
    if count <= len(SERIES):
        return list(SERIES[:count])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(color) for color in colormaps["turbo"].resampled(count)(range(count))]


def name_ticks(axis: Axis) -> None:
    """Write the numbers of an axis without exponents. On a log scale, write fewer the more decades
    it has."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if axis.get_scale() == "log":
        low, high = axis.get_view_interval()
        decades = math.log10(high / low)
        digits: tuple[int, ...] = (1,)
        if decades < 1.5:
            digits = (1, 2, 5)
        elif decades < 3:
            digits = (1, 3)
        axis.set_major_locator(LogLocator(subs=digits))
        axis.set_minor_locator(NullLocator())

    def plain(x: float, _: int) -> str:
        return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.4g}"

    axis.set_major_formatter(FuncFormatter(plain))


def scale(axes: Axes, which: str, values: Sequence[float], name: str) -> None:
    """Make an axis logarithmic if its values are far apart, and name it. The name of y is above the
    panel."""
    if min(values) > 0 and max(values) / min(values) >= LOG_FROM:
        axes.set(**{f"{which}scale": "log"})
        name += " (log)"
    if which == "x":
        name_ticks(axes.xaxis)
        axes.set(xlabel=name)
    else:
        name_ticks(axes.yaxis)
        axes.set(title=name)


def require_format(file: Path) -> None:
    """Raise UserError if the file's suffix is not in SUFFIXES."""
    if file.suffix not in SUFFIXES:
        raise UserError(
            f"unknown figure format {str(file)!r}: the file name must end in {', '.join(SUFFIXES)}"
        )


def save_figure(figure: Figure, file: Path, title: str) -> Path:
    """Write a figure in the format of the file's suffix, which `require_format` checks. Return the
    file."""
    require_format(file)
    if file.suffix == ".svg":
        write_file(file, to_file(to_svg(figure, title)))
    else:
        _make_printable(figure)
        with atomic_write(file) as temporary:
            figure.savefig(temporary, format=file.suffix[1:], dpi=144)
    return file


def to_svg(figure: Figure, title: str, description: str = "") -> str:
    """Return a figure as an SVG element for a page, whose style sheet replaces the colors.

    Every attribute is plain SVG, because the page's policy allows no style attribute. Coordinates
    have two decimals.
    """
    _make_printable(figure)
    buffer = BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    ElementTree.register_namespace("", SVG)
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _clean(element)
    _name_clips(root)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {
        "class": "figure",
        "role": "img",
        "font-family": FONT,
        "stroke-linejoin": "round",
    }
    for tag, text in (("desc", description), ("title", title)):
        if text:
            element = ElementTree.Element(f"{{{SVG}}}{tag}")
            element.text = printable(text)
            root.insert(0, element)
    return ElementTree.tostring(root, encoding="unicode")


def to_file(svg: str) -> str:
    """Return a page's figure as a file, which follows the reader's color scheme by itself."""
    head, tag, rest = svg.partition(">")
    _, _, width, height = re.search(r'viewBox="([^"]*)"', head)[1].split()  # type: ignore[index]
    rules = "\n".join(
        f'[{part}="{LIGHT[name]}"] {{ {part}: {DARK[name]}; }}'
        for name in LIGHT
        for part in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme: dark) {{\n{rules}\n}}</style>"
    return f'{head} width="{width}" height="{height}"{tag}\n{style}{rest}\n'


def _make_printable(figure: Figure) -> None:
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        shown = "\n".join(map(printable, text.get_text().split("\n")))
        if shown != text.get_text():
            text.set_text(shown)


def _name_clips(root: ElementTree.Element) -> None:
    """Name each clip path by its rounded content. matplotlib's name depends on the last bits of its
    coordinates."""
    names = {}
    for clip in root.iter(f"{{{SVG}}}clipPath"):
        before = clip.attrib.pop("id")
        after = "p" + hashlib.sha256(ElementTree.tostring(clip)).hexdigest()[:10]
        clip.set("id", after)
        names[f"url(#{before})"] = f"url(#{after})"
    for element in root.iter():
        used = element.get("clip-path")
        if used:
            element.set("clip-path", names[used])


def _clean(element: ElementTree.Element) -> None:
    """Turn an element's style into attributes, round its numbers, and turn the id of a tooltip into
    a title."""
    attributes = dict(_attributes(element))
    name = attributes.get("id", "")
    if name.startswith(TIP):
        title = ElementTree.Element(f"{{{SVG}}}title")
        title.text = name.removeprefix(TIP)
        element.insert(0, title)
    if element.tag == f"{{{SVG}}}g":
        attributes.pop("id", None)
    element.attrib.clear()
    element.attrib.update(attributes)
    element.text, element.tail = ((x.strip() if x else x) for x in (element.text, element.tail))


def _attributes(element: ElementTree.Element) -> Iterator[tuple[str, str]]:
    for name, value in element.attrib.items():
        if name == "style":
            for part in value.split(";"):
                key, _, text = (x.strip() for x in part.partition(":"))
                if key == "font" and (size := re.search(r"([\d.]+)px", text)):
                    yield "font-size", _round(size[1])
                    weight = re.search(r"\b(bold|[6-9]00)\b", text)
                    if weight:
                        yield "font-weight", weight[1]
                elif key and key != "font-family":
                    yield key, _round(text)
        elif name == "id":
            yield name, value
        elif not value.startswith("rotate(-0 "):
            yield name.rpartition("}")[2], _round(value)


def _round(text: str) -> str:
    numbers = re.sub(r"-?\d+\.\d+", lambda number: f"{round(float(number[0]), 2) + 0.0:g}", text)
    return " ".join(numbers.split())
