"""Draw docs/imports.svg: packages as boxes, in the layers of pyproject.toml, and their imports as arrows.

python scripts/import_graph.py          write it
python scripts/import_graph.py --check  exit 1 if it is stale

An arrow that others imply (a → c beside a → b → c) has a lighter color. grimp reads the imports, as in import-linter. Equal
imports give equal bytes.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

import grimp

ROOT = Path(__file__).parent.parent
OUT = ROOT / "docs" / "imports.svg"

Edge = tuple[str, str]
Rows = list[list[str]]
Point = tuple[float, float]
Box = tuple[float, float, float]
"""Left, top and width, in pixels."""

WIDTH, BOX_W, BOX_H, ROW, TOP = 820, 104, 30, 84, 24
"""Sizes in pixels. ROW is the distance from the top of a box to the top of the box below."""
LANE = 5.0
"""Distance between two lines that cross a row through the same gap, in pixels."""
STYLE = """
  .box { fill: #ffffff; stroke: #57606a; }
  .methods { fill: #ddf4e4; }
  .cast, .baselines { fill: #fff1d6; }
  .frame { fill: #f6f8fa; stroke: #d0d7de; }
  .line { fill: none; stroke: #2f6fb3; stroke-width: 1.1; marker-end: url(#tip); }
  .implied { stroke: #b9c6d3; stroke-width: 0.8; marker-end: url(#light); }
  text { font: 14px sans-serif; fill: #1f2328; text-anchor: middle; dominant-baseline: central; }
  .caption { fill: #57606a; text-anchor: start; }
"""


def layers() -> Rows:
    """Return the rows from top to bottom, from the contracts of import-linter. `bench` becomes the layers inside it."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
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
    """Return the packages of a layer: "a | b", "a : b" if they may import each other, "(a)" if it may be missing."""
    return [name.strip(" ()") for name in re.split(r"[|:]", layer)]


def imports(rows: Rows) -> set[Edge]:
    """Return pairs of boxes: the first imports the second. Modules outside every box are left out (bench/__main__.py).

    Raises:
        SystemExit: an import does not point down.
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


def implied(edges: set[Edge]) -> set[Edge]:
    """Return the edges (a, c) for which a longer path from a to c exists."""
    after = defaultdict(set)
    for a, b in edges:
        after[a].add(b)

    def reaches(a: str, b: str) -> bool:
        return b in after[a] or any(reaches(c, b) for c in after[a])

    return {(a, b) for a, b in edges if any(reaches(c, b) for c in after[a])}


def place(rows: Rows) -> dict[str, Box]:
    """Center each row. A single box in the last row is as wide as the picture."""
    boxes: dict[str, Box] = {}
    for i, row in enumerate(rows):
        wide = len(row) == 1 and i == len(rows) - 1
        width = WIDTH - 80 if wide else BOX_W
        step = WIDTH / (len(row) + 1) if len(row) < 3 else WIDTH * 0.28
        for k, name in enumerate(row):
            middle = WIDTH / 2 + (k - (len(row) - 1) / 2) * step
            boxes[name] = (middle - width / 2, TOP + i * ROW, width)
    return boxes


def route(edges: Iterable[Edge], rows: Rows, boxes: Mapping[str, Box]) -> dict[Edge, list[Point]]:
    """Return the points of each line: its two ends, and a gap between boxes in every row that it crosses."""
    level = {name: i for i, row in enumerate(rows) for name in row}
    middle = {name: x + width / 2 for name, (x, _, width) in boxes.items()}

    def toward(a: str, b: str, row: int) -> float:
        """Return x where the straight line from a to b crosses a row. A line to a wide box is vertical."""
        end = middle[a] if boxes[b][2] > BOX_W else middle[b]
        return middle[a] + (end - middle[a]) * (row - level[a]) / (level[b] - level[a])

    through: dict[tuple[int, float], list[Edge]] = defaultdict(list)
    for a, b in sorted(edges):
        near = middle[a]
        for row in range(level[a] + 1, level[b]):
            free = gaps(rows[row], boxes)
            wanted = (toward(a, b, row) + near) / 2
            near = min((abs(x - wanted), x) for x in free)[1]
            through[row, near].append((a, b))
    lanes: dict[Edge, list[tuple[int, float]]] = defaultdict(list)
    for (row, x), group in through.items():
        group.sort(key=lambda e: (middle[e[0]] + toward(e[0], e[1], level[e[1]]), e))
        for k, edge in enumerate(group):
            lanes[edge].append((row, x + (k - (len(group) - 1) / 2) * LANE))

    passes = {edge: [x for _, x in sorted(lanes[edge])] for edge in edges}
    starts = spread(edges, passes, boxes, middle, end=0)
    ends = spread(edges, passes, boxes, middle, end=1)
    paths = {}
    for edge in edges:
        a, b = edge
        points = [(starts[edge], boxes[a][1] + BOX_H)]
        for row, x in sorted(lanes[edge]):
            points += [(x, TOP + row * ROW - 4), (x, TOP + row * ROW + BOX_H + 4)]
        paths[edge] = [*points, (ends[edge], boxes[b][1])]
    return paths


def gaps(row: list[str], boxes: Mapping[str, Box]) -> list[float]:
    """Return the middles of the free space beside and between a row's boxes."""
    lefts = [boxes[name][0] for name in row]
    rights = [boxes[name][0] + boxes[name][2] for name in row]
    return [lefts[0] - 44, *((r + x) / 2 for r, x in zip(rights, lefts[1:], strict=False)), rights[-1] + 44]


def spread(
    edges: Iterable[Edge],
    passes: Mapping[Edge, list[float]],
    boxes: Mapping[str, Box],
    middle: Mapping[str, float],
    end: int,
) -> dict[Edge, float]:
    """Return x where each line begins (end 0) or ends (end 1) on its box, in the order of the lines."""
    groups: dict[str, list[tuple[float, Edge]]] = defaultdict(list)
    for edge in edges:
        groups[edge[end]].append((passes[edge][-end] if passes[edge] else middle[edge[1 - end]], edge))
    out = {}
    for name, group in groups.items():
        left, _, width = boxes[name]
        for k, (x, edge) in enumerate(sorted(group)):
            even = left + width * (k + 1) / (len(group) + 1)
            out[edge] = min(max(x, left + 12), left + width - 12) if width > BOX_W and len(group) > 1 else even
    return out


def curve(points: list[Point]) -> str:
    """Return an SVG path: straight beside the boxes, a curve between two rows."""
    path = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for (x0, y0), (x1, y1) in pairwise(points):
        bend = (y1 - y0) / 2
        same = abs(x0 - x1) < 0.05
        path.append(
            f"L{x1:.1f} {y1:.1f}" if same else f"C{x0:.1f} {y0 + bend:.1f} {x1:.1f} {y1 - bend:.1f} {x1:.1f} {y1:.1f}"
        )
    return "".join(path)


def draw() -> str:
    rows = layers()
    edges = imports(rows)
    boxes, light = place(rows), implied(edges)
    paths = route(edges, rows, boxes)
    height = TOP + len(rows) * ROW - ROW + BOX_H + 20
    inside = [y for name, (_, y, _) in boxes.items() if name.startswith("bench")]
    frame = (min(inside) - 14, max(inside) - min(inside) + BOX_H + 28)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>Packages and their imports</title>",
        f"<style>{STYLE}</style>",
        "<defs>",
        *(
            f'<marker id="{name}" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto" '
            f'markerUnits="userSpaceOnUse"><path d="M0 0.8L8 4L0 7.2z" fill="{color}"/></marker>'
            for name, color in (("tip", "#2f6fb3"), ("light", "#b9c6d3"))
        ),
        "</defs>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<rect class="frame" x="10" y="{frame[0]}" width="{WIDTH - 20}" height="{frame[1]}" rx="8"/>',
        f'<text class="caption" x="24" y="{frame[0] + 20}">bench/</text>',
    ]
    for edge in sorted(edges, key=lambda e: (e not in light, e)):
        kind = "line implied" if edge in light else "line"
        lines.append(f'<path class="{kind}" d="{curve(paths[edge])}"><title>{edge[0]} imports {edge[1]}</title></path>')
    for name, (x, y, width) in boxes.items():
        short = name.partition(".")[2] or name
        lines.append(f'<rect class="box {short}" x="{x:.1f}" y="{y}" width="{width}" height="{BOX_H}" rx="5"/>')
        lines.append(f'<text x="{x + width / 2:.1f}" y="{y + BOX_H / 2}">{short}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def main() -> None:
    # Read this checkout, even if another version is installed.
    sys.path.insert(0, str(ROOT))
    fresh = draw()
    if "--check" in sys.argv:
        if not OUT.exists() or OUT.read_text() != fresh:
            sys.exit(f"stale: {OUT.name}; run python scripts/import_graph.py")
    else:
        OUT.write_text(fresh)


if __name__ == "__main__":
    main()
