"""Write the tables and references in README.md and docs/, so that no number or setting is typed.

python scripts/readme.py          rewrite them
python scripts/readme.py --check  print the pages that are stale; exit 1 if there are any
python scripts/readme.py --list   print the comments and what is written between them

What is between <!-- NAME: WORDS --> and <!-- /NAME --> is replaced by what BLOCKS[NAME] returns for
the words. `board` makes a table of results/boards.toml, and reference.py uses the catalog and the
program. Two functions of one name are refused.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import benchmark_figures
import calibration_tables
import declared
import expert_tables
import front_page
import frontier
import growth_picture
import language_tables
import long_tables
import outside_tables
import reference
import size_pictures
import size_tables
import tables
import text_tables
import track_tables
from codes_picture import codes_picture
from page_records import ROOT

from bench.reporting import drawing

FIGURES = ROOT / "docs" / "figures"
FRONTIER = "results/smollm2"
"""Folder whose front README shows."""
SIZES = "results/main,results/tiny-default"
"""Folders with the models of the picture of sizes."""
KINDS = {"by-size": size_pictures.by_size} | tables.TABLES | track_tables.TABLES
KINDS |= (
    outside_tables.TABLES
    | size_tables.TABLES
    | frontier.TABLES
    | calibration_tables.TABLES
    | language_tables.TABLES
    | long_tables.TABLES
    | text_tables.TABLES
)
"""Functions that make a table of results/boards.toml, by its kind."""


def board(name: str) -> str:
    """Return a table of results/boards.toml with its question; "" if its board has no records."""
    one, table = declared.find_table(name)
    if not one.measured:
        return ""
    made = KINDS[table.kind](f"results/{one.name}", *table.words)
    return f"*{table.question}*\n\n{made}"


SOURCES: dict[str, Mapping[str, Callable[..., str]]] = {
    "readme.py": {"board": board},
    "size_tables.py": {
        "quantizers": size_tables.quantizers,
        "source-grid": size_tables.source_grid,
    },
    "expert_tables.py": expert_tables.TABLES,
    "benchmark_figures.py": benchmark_figures.TABLES,
    "growth_picture.py": growth_picture.TABLES,
    "front_page.py": front_page.TABLES,
    "reference.py": reference.BLOCKS,
}
"""Functions that make the text between two comments, by the first word of the comment."""


def merge_blocks(sources: Mapping[str, Mapping[str, Callable[..., str]]]) -> dict[str, Any]:
    """Return all functions by name. Exit with 2 if two files use one name."""
    blocks: dict[str, Any] = {}
    owners: dict[str, str] = {}
    for file, functions in sources.items():
        for name, make in functions.items():
            if name in owners:
                print(
                    f"scripts/{file} and scripts/{owners[name]} both make the block {name!r}: "
                    "rename one of them",
                    file=sys.stderr,
                )
                sys.exit(2)
            owners[name], blocks[name] = file, make
    return blocks


BLOCKS = merge_blocks(SOURCES)
BLOCK = re.compile(
    rf"^(<!-- ({'|'.join(BLOCKS)})(?:: ([^>]+))? -->\n).*?(<!-- /\2 -->)$", re.DOTALL | re.MULTILINE
)


def render(text: str) -> str:
    """Return a page with the text between its comments made again."""

    def fill(match: re.Match[str]) -> str:
        made = BLOCKS[match[2]](*(match[3] or "").split()).strip("\n")
        return f"{match[1]}\n{made}\n\n{match[4]}" if made else f"{match[1]}{match[4]}"

    return BLOCK.sub(fill, text)


def figures(pages: str) -> dict[Path, str]:
    """Return the text of each file in FIGURES.

    pages: text of all pages. A benchmark has a figure if they show it.
    """
    shown = set(re.findall(r"figures/([\w-]+)\.svg", pages))
    names = sorted(path.stem for path in (ROOT / "results" / "benchmarks").glob("*.json"))
    drawn = {name: benchmark_figures.figure(name) for name in names if name in shown}
    fronts = {"frontier-smollm2": frontier.picture(FRONTIER)}
    fronts |= {
        name: one.svg for name, _, one in track_tables.profile_figures(track_tables.PROFILES)
    }
    drawn |= calibration_tables.pictures("results/calibration")
    drawn |= {name: drawing.to_file(svg) for name, svg in fronts.items()}
    drawn["run"] = front_page.picture()
    drawn |= {"codes": codes_picture(), "experts": expert_tables.picture()}
    drawn["growth"] = growth_picture.growth_picture()
    drawn["size"] = size_pictures.size_picture(SIZES)
    return {FIGURES / f"{name}.svg": svg for name, svg in drawn.items() if svg}


def main() -> None:
    if "--list" in sys.argv:
        for name, make in BLOCKS.items():
            print(f"{name:12} {' '.join(inspect.signature(make).parameters):20} {make.__doc__}")
        return
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    files = {path: render(path.read_text()) for path in pages}
    files |= figures("\n".join(files.values()))
    stale = [path for path in files if not path.is_file() or path.read_text() != files[path]]
    gone = [path for path in FIGURES.glob("*.svg") if path not in files]
    if "--check" in sys.argv:
        if stale or gone:
            names = ", ".join(str(path.relative_to(ROOT)) for path in (*stale, *gone))
            sys.exit(f"out of date: {names}: run python scripts/readme.py")
        return
    FIGURES.mkdir(exist_ok=True)
    for path in stale:
        path.write_text(files[path])
    for path in gone:
        path.unlink()


if __name__ == "__main__":
    main()
