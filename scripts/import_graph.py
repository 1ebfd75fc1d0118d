"""Draw docs/imports.svg: packages as boxes, in the layers of pyproject.toml, and imports as arrows.

python scripts/import_graph.py          write it
python scripts/import_graph.py --check  exit 1 if it is stale

An arrow that others imply (a → c beside a → b → c) is left out. grimp reads the imports, as in
import-linter. Equal imports give equal bytes.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import grimp
import networkx

from bench.reporting import drawing

ROOT = Path(__file__).parent.parent
OUT = ROOT / "docs" / "imports.svg"

Edge = tuple[str, str]
Rows = list[list[str]]

WIDTH, ROW, BOX_HEIGHT = 560, 52, 22
"""Width of the picture, distance of two rows, and height of a box, in pixels."""
COLORS = {"methods": "#009e73", "cast": "#e69f00", "baselines": "#e69f00"}
"""Color of the packages outside bench/."""


def layers() -> Rows:
    """Return the rows from the contracts of import-linter, top first, `bench` as its layers."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    kinds = [c for c in contracts if c["type"] == "layers"]
    outside = next(c["layers"] for c in kinds if "bench" in c["layers"])
    inside: list[str] = next((c["layers"] for c in kinds if c.get("containers") == ["bench"]), [])
    rows: Rows = []
    for layer in outside:
        if layer == "bench" and inside:
            rows += [[f"bench.{name}" for name in names(below)] for below in inside]
        else:
            rows.append(names(layer))
    return rows


def names(layer: str) -> list[str]:
    """Return the packages of a layer: "a | b", "a : b" if they may import each other, "(a)"."""
    return [name.strip(" ()") for name in re.split(r"[|:]", layer)]


def imports(rows: Rows) -> set[Edge]:
    """Return pairs of boxes: the first imports the second. Exit if an import does not point down.

    Modules outside every box are left out (bench/__main__.py).
    """
    level = {name: i for i, row in enumerate(rows) for name in row}
    graph = grimp.build_graph(*sorted({name.partition(".")[0] for name in level}), cache_dir=None)
    edges = set()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            a, b = box_of(module, level), box_of(imported, level)
            if a is None or b is None or a == b:
                continue
            if level[a] >= level[b]:
                sys.exit(f"{module} imports {imported}, which is not below it: run lint-imports")
            edges.add((a, b))
    return edges


def box_of(module: str, boxes: Iterable[str]) -> str | None:
    return next((name for name in boxes if f"{module}.".startswith(f"{name}.")), None)


def place(rows: Rows) -> dict[str, tuple[float, float]]:
    """Return the middle of each box, in pixels from the bottom left, with rows in the middle."""
    at = {}
    for i, row in enumerate(rows):
        # Rows of one box are shifted, so that an arrow that passes a row is seen beside its box.
        alone = len(row) == 1 and i < len(rows) - 1
        shift = 0.11 * WIDTH * (-1) ** i if alone else 0.0
        for k, name in enumerate(row):
            x = WIDTH / 2 + shift + (k - (len(row) - 1) / 2) * WIDTH / 3.2
            at[name] = x, (len(rows) - i - 0.5) * ROW
    return at


def draw() -> str:
    """Return the picture as an SVG file."""
    rows, light = layers(), drawing.LIGHT
    edges, at = imports(rows), place(rows)
    figure, ((panel,),) = drawing.new_figure(WIDTH, ROW * len(rows))
    panel.set(xlim=(0, WIDTH), ylim=(0, ROW * len(rows)))
    panel.set_axis_off()
    arrow = {"arrowstyle": "-|>", "color": light["blue"], "linewidth": 1}
    arrow |= {"shrinkA": 0, "shrinkB": 0}
    for a, b in sorted(networkx.transitive_reduction(networkx.DiGraph(edges)).edges):
        (x0, y0), (x1, y1) = at[a], at[b]
        bend = 0.0
        if y0 - y1 >= 1.5 * ROW:
            bend = 0.18 if x0 < WIDTH / 2 else -0.18
        ends = (x1, y1 + BOX_HEIGHT / 2), (x0, y0 - BOX_HEIGHT / 2)
        panel.annotate("", *ends, arrowprops=arrow | {"connectionstyle": f"arc3,rad={bend}"})
    for name, (x, y) in at.items():
        short = name.partition(".")[2] or name
        box = {"boxstyle": "round,pad=0.35", "facecolor": light["paper"]}
        box["edgecolor"] = COLORS.get(short, light["soft"])
        panel.text(x, y, short, ha="center", va="center", bbox=box)
    return drawing.to_file(drawing.to_svg(figure, "Packages and their imports"))


def main() -> None:
    fresh = draw()
    if "--check" in sys.argv:
        if not OUT.exists() or OUT.read_text() != fresh:
            sys.exit(f"stale: {OUT.name}; run python scripts/import_graph.py")
    else:
        OUT.write_text(fresh)


if __name__ == "__main__":
    main()
