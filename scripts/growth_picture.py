"""Growth of `bench report`, `check` and `ls`: a picture of two commits, and a table of the bars."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from page_records import ROOT, markdown

from bench.reporting import drawing

FILE = ROOT / "results/benchmarks/growth.json"
CPU, MEMORY = "seconds of CPU", "peak MB"
NAME = re.compile(r"(\w+) ([\d,]+) (rows|records), (cold|warm)")
BARS = {"report": (30, "2,000 rows"), "check": (30, "20,000 records"), "ls": (2, "10,000 records")}
"""Seconds of CPU that each command may take, and of what."""
EXPONENT, LEAST_ROWS, MOST_MEMORY = 1.3, "200 rows", 1000
"""Power of n that bounds the growth of a report from this size, and its largest memory in MB."""
STYLES = {"cold": "o-", "warm": "s--"}


def _figures() -> dict[str, dict[str, dict[str, Any]]]:
    """Return the numbers by commit and command, "now" last."""
    figures: dict[str, dict[str, dict[str, Any]]] = json.loads(FILE.read_text())["figures"]
    return dict(sorted(figures.items(), key=lambda pair: pair[0] == "now"))


def growth_picture() -> str:
    """Return an SVG file: CPU seconds by size, with a panel for each command and its bar as a line.
    A triangle is a command that was stopped."""
    colors = (drawing.LIGHT["soft"], drawing.LIGHT["blue"])
    figure, axes = drawing.new_figure(640, 720, rows=len(BARS))
    for (command, (bar, what)), panel in zip(BARS.items(), axes[:, 0], strict=True):
        for (commit, figures), color in zip(_figures().items(), colors, strict=True):
            for state, style in STYLES.items():
                points = {}
                for name, found in figures.items():
                    match = NAME.fullmatch(name)
                    if match and (match[1], match[4]) == (command, state):
                        points[int(match[2].replace(",", ""))] = found[CPU]
                ended = {size: s for size, s in points.items() if not isinstance(s, str)}
                label = f"{commit}, {state}"
                panel.plot(
                    *zip(*sorted(ended.items()), strict=True), style, color=color, label=label
                )
                for size in points.keys() - ended.keys():
                    limit = float(points[size].rpartition(" ")[2])
                    panel.plot(size, limit, "^", color=color, gid=drawing.tip(f"{label}: stopped"))
        panel.axhline(bar, color=drawing.LIGHT["ink"], linestyle=":", linewidth=1)
        unit = what.rpartition(" ")[2]
        title = f"bench {command}: seconds of CPU by {unit}; dotted: {bar} s, the bar for {what}"
        panel.set(xscale="log", yscale="log", title=title)
        drawing.name_ticks(panel.xaxis)
        drawing.name_ticks(panel.yaxis)
        panel.legend(fontsize=8)
    return drawing.to_file(drawing.to_svg(figure, "growth: seconds of CPU by size"))


def growth() -> str:
    """Return the bars of growth, and what was measured cold and warm."""
    now = _figures()["now"]
    rows = []
    for command, (bar, what) in BARS.items():
        took = [f"{now[f'{command} {what}, {state}'][CPU]:.3g}" for state in STYLES]
        rows.append((f"`bench {command}` of {what}, seconds of CPU", str(bar), *took))
    most = BARS["report"][1]
    ends = [[now[f"report {what}, {state}"] for what in (LEAST_ROWS, most)] for state in STYLES]
    memory = [f"{end[MEMORY]:,}" for _, end in ends]
    rows.append((f"`bench report` of {most}, MB", f"{MOST_MEMORY:,}", *memory))
    counts = [int(what.split()[0].replace(",", "")) for what in (LEAST_ROWS, most)]
    factor = math.log(counts[1] / counts[0])
    powers = [f"{math.log(end[CPU] / start[CPU]) / factor:.2f}" for start, end in ends]
    rows.append((f"`bench report`, power of n from {LEAST_ROWS} to {most}", str(EXPONENT), *powers))
    return markdown(("growth", ">bar", *(f">{state}" for state in STYLES)), rows)


TABLES = {"growth": growth}
"""Functions by the first word of their comment."""
