"""Figures and tables of results/benchmarks/. A figure has a panel for each kind of number."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from page_records import DASH, ROOT, markdown

from bench.reporting import drawing
from bench.reporting.words import cut
from bench.system.text import escape_markdown, printable

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
FORMER_MODEL = re.compile(r"smollm2-135m(?!-)")
"""Name of smollm2-135m-instruct-q4 in older benchmarks. Names of folders do not match."""


@dataclass(frozen=True)
class Number:
    """A number of a benchmark, and its spread. Without one, low and high are the value."""

    path: tuple[str, ...]
    """Keys of the number."""
    value: float
    low: float
    high: float
    ratio: bool = False

    @property
    def text(self) -> str:
        return f"{number(self.value)}×" if self.ratio else number(self.value)


def readable(key: str) -> str:
    """Return a key without underscores, with its unit in words."""
    if key.startswith("peak_"):
        key = re.sub(r"bytes(?=_|$)", "MB", key)
    return re.sub(r"_s$", ", seconds", key).replace("_", " ")


def number(value: float) -> str:
    """Return a number with three digits, two if it is small, or all digits of a whole number."""
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value:,.0f}"
    if 0 < abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.6g}" if 0.99 <= abs(value) < 1 else f"{value:.3g}"


def leaves(figures: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield (path, value) of each figure, bytes in MB. A ratio is a mapping with "median"."""
    for key, value in figures.items():
        here = (*path, readable(key))
        if isinstance(value, dict) and "median" not in value:
            yield from leaves(value, here)
        elif key.startswith("peak_bytes"):
            yield here, value / 1e6
        elif not isinstance(value, list):
            yield here, value


def cells(figures: dict[str, Any]) -> dict[str, str]:
    """Return the text of each figure by its path."""
    texts = {}
    for path, value in leaves(figures):
        if isinstance(value, dict):
            spread = "one round"
            if value["min"] < value["max"]:
                spread = f"{value['min']:.2f} to {value['max']:.2f}"
            text = f"{value['median']:.2f}× ({spread})"
        elif isinstance(value, int | float):
            text = number(value)
        else:
            text = escape_markdown(str(value))
        if not isinstance(value, bool):
            texts[": ".join(path)] = text
    return texts


def numbers(figures: dict[str, Any]) -> Iterator[Number]:
    """Yield the numbers of a benchmark's figures."""
    for path, value in leaves(figures):
        if isinstance(value, dict):
            yield Number(path, value["median"], value["min"], value["max"], ratio=True)
        elif isinstance(value, str) and (spread := SPREAD.fullmatch(value)):
            median, low, high = map(float, spread.groups())
            yield Number(path, median, low, high)
        elif isinstance(value, str) and re.fullmatch(r"[\d.]+%", value):
            share = float(value[:-1]) / 100
            yield Number(path, share, share, share)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield Number(path, float(value), float(value), float(value))


def panels(figures: dict[str, Any]) -> dict[str, list[tuple[str, Number]]]:
    """Return labels and numbers by panel, one per key or per unit. Settings have no panel."""
    every = []
    for n in numbers(figures):
        if n.ratio or not any(word in " ".join(n.path) for word in QUIET):
            every.append(n)
    ends: dict[tuple[str, ...], set[str]] = {}
    for n in every:
        ends.setdefault(n.path[1:], set()).add(n.path[0])
    out: dict[str, list[tuple[str, Number]]] = {}
    for n in every:
        whole = ": ".join(n.path)
        unit = next((title for end, title in UNITS if n.path[-1].endswith(end)), "")
        if len(n.path) > 1 and len(ends[n.path[1:]]) > 1:
            out.setdefault(": ".join(n.path[1:]), []).append((n.path[0], n))
        elif n.ratio:
            out.setdefault("ratio", []).append((whole, n))
        elif unit:
            name = whole.removesuffix(unit).rstrip(" ,:") or n.path[-1]
            out.setdefault(unit, []).append((name, n))
        elif n.low < n.high:
            out.setdefault(SHARES, []).append((whole, n))
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
    labels = [cut(printable(label), MAX_LABEL) for label, _ in bars]
    panel.set_yticks(range(len(bars)), labels, color=INK)
    panel.set_ylim(len(bars) - 0.5, -0.5)
    panel.set_xlim(None if log else 0)
    panel.grid(visible=False)
    panel.xaxis.set_visible(False)
    panel.spines["bottom"].set_visible(False)


def _file(name: str) -> Path:
    return ROOT / "results" / "benchmarks" / f"{name}.json"


def _saved(name: str) -> dict[str, Any]:
    text = FORMER_MODEL.sub("smollm2-135m-instruct-q4", _file(name).read_text())
    saved: dict[str, Any] = json.loads(text)
    return saved


@cache
def figure(name: str) -> str:
    """Draw a saved benchmark. Returns an empty text if it has no number to draw."""
    return draw(name, _saved(name)["figures"])


def benchmark(name: str) -> str:
    """Return a figure with its command and the file of its numbers, or that it was not measured.

    A benchmark without a figure has a table.
    """
    if not _file(name).exists():
        return f"*Not measured yet:* `python benchmarks/{name}.py`\n"
    if not figure(name):
        return markdown((_command(name), ">"), cells(_saved(name)["figures"]).items())
    return f"![{name}](figures/{name}.svg)\n\n{_source(name)}"


def _command(name: str) -> str:
    machine = escape_markdown(_saved(name)["provenance"]["machine"]["cpu"])
    script, _, model = name.partition("-")
    option = f" --model {model}" if model else ""
    return f"`python benchmarks/{script}.py{option}` on {machine}"


def _source(name: str) -> str:
    return f"{_command(name)}: `results/benchmarks/{name}.json`\n"


def speeds(name: str, *shared: str) -> str:
    """Return the timings of a benchmark by engine and weights, with a column for each setting.

    shared: numbers that depend on the weights alone, with _ for a space.
    """
    groups = {key: of for key, of in _saved(name)["figures"].items() if isinstance(of, dict)}
    columns = [f"{group}, tokens/s" for group in groups]
    columns += [key.replace("_", " ") for key in shared]
    rows: dict[str, dict[str, str]] = {}
    for group, figures in groups.items():
        for key, value in figures.items():
            weights, _, metric = key.rpartition(", ")
            column = f"{group}, tokens/s" if metric == "tokens/s" else metric
            if column in columns:
                rows.setdefault(weights, {}).setdefault(column, number(value))
    lines = [(row, *(of_row.get(c, DASH) for c in columns)) for row, of_row in rows.items()]
    table = markdown(("engine and weights", *(f">{column}" for column in columns)), lines)
    return f"{table}\n{_source(name)}"


def grid(name: str, first: str = "model") -> str:
    """Return the numbers of a benchmark as one table, with a row for each first key.

    first: header of the first column.
    """
    rows = {row: cells(values) for row, values in _saved(name)["figures"].items()}
    columns = list(dict.fromkeys(column for of_row in rows.values() for column in of_row))
    lines = [(row, *(of_row.get(c, DASH) for c in columns)) for row, of_row in rows.items()]
    return markdown((first, *(f">{column}" for column in columns)), lines)


def rates(name: str) -> str:
    """Return the shares of a benchmark that were simulated, with their 95% intervals.

    "Before" are shares by the rules of an earlier commit, and are left out.
    """
    found = cells(_saved(name)["figures"]).items()
    now = [(path, text) for path, text in found if ", before" not in path]
    shares = [(path, text) for path, text in now if SPREAD.fullmatch(text)]
    return markdown((f"simulated by `python benchmarks/{name}.py`", ">share"), shares)


def coverage() -> str:
    """Return how often intervals from some windows hold the ratio of the other windows."""
    figures = _saved("intervals")["figures"]
    held, anywhere = figures["holds the rest"], figures["holds the rest, wherever it begins"]
    mean, least = re.findall(r"0\.\d+", anywhere["20 in a row"])
    return (
        "Intervals of the rows of SmolLM2 with 120 windows, against the ratio on the windows that "
        f"they leave out: from the first 20 windows {held['the first 20']} hold it, from 20 spread "
        f"over the text {held['20 spread']}, and from 60 {held['the first 60']}. From 20 in a row, "
        f"wherever they begin, {float(mean):.1%} hold it on average and {float(least):.1%} at the "
        "worst place, which is below the level. Windows are spread by default.\n\n"
    ) + _held_out_articles()


def _held_out_articles() -> str:
    figures = _saved("coverage")["figures"]
    splits = figures.pop("splits")
    lines = []
    for model, of in figures.items():
        least = f"{of['row that agrees least']:.0%}"
        lines.append((model, str(of["rows"]), str(of["articles"]), f"{of['agree']:.1%}", least))
    header = ("model", ">rows", ">articles", ">intervals that agree", ">row that agrees least")
    return (
        f"Articles of each row, split at random into halves {splits} times: how often the "
        "intervals of the two halves agree. Of intervals that hold 95%, about 95% do.\n\n"
        f"{markdown(header, lines)}"
    )


TABLES: dict[str, Callable[..., str]] = {
    "benchmark": benchmark,
    "coverage": coverage,
    "grid": grid,
    "rates": rates,
    "speeds": speeds,
}
"""Functions by the first word of their comment."""
