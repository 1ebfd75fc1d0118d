"""Write the tables and references in README.md and docs/, so that no number or setting is typed.

python scripts/readme.py          rewrite them
python scripts/readme.py --check  print the pages that are stale; exit 1 if there are any
python scripts/readme.py --list   print the comments and what is written between them

What is between <!-- NAME: WORDS --> and <!-- /NAME --> is replaced by what BLOCKS[NAME] returns for
the words. Modules with TABLES make it from records, and reference.py from the catalog and the
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
import budget_tables
import expert_tables
import front_page
import frontier
import reference
import size_tables
import study_tables
import tables
import track_tables
import training_curves
from codes_picture import codes_picture
from page_records import ROOT

from bench.parts.scaling.figure import draw_scaling
from bench.reporting import drawing
from bench.reporting.figures import draw_search
from bench.system.cache import temporary_folder

FIGURES = ROOT / "docs" / "figures"
FRONTIERS = {
    "tiny": "results/tiny-structure,results/tiny-structure-trained",
    "smollm2": "results/smollm2-structure,results/smollm2-135m-recon,results/smollm2-135m-wanda7",
}
"""Folders whose fronts the pages show, by the name of the picture."""
SOURCES: dict[str, Mapping[str, Callable[..., str]]] = {
    "tables.py": tables.TABLES,
    "track_tables.py": track_tables.TABLES,
    "budget_tables.py": budget_tables.TABLES,
    "expert_tables.py": expert_tables.TABLES,
    "size_tables.py": size_tables.TABLES,
    "study_tables.py": study_tables.TABLES,
    "frontier.py": frontier.TABLES,
    "benchmark_figures.py": benchmark_figures.TABLES,
    "front_page.py": front_page.TABLES,
    "training_curves.py": {"curve": training_curves.table},
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
    fronts = {f"frontier-{name}": frontier.picture(folders) for name, folders in FRONTIERS.items()}
    fronts["frontier-cards"] = frontier.card_picture(FRONTIERS["smollm2"])
    fronts |= {
        name: one.svg for name, _, one in track_tables.profile_figures(track_tables.PROFILES)
    }
    drawn |= {name: drawing.to_file(svg) for name, svg in fronts.items()}
    fit, holdout, _ = study_tables.fit_law(study_tables.SCALING)
    values = {}
    for one in study_tables.read_trials(study_tables.SEARCH):
        values[one.method] = [trial.value for trial in one.trials]
    with temporary_folder("figures") as room:
        law = draw_scaling(
            fit, room / "scaling.svg", study_tables.METHOD, study_tables.CONTROL, holdout
        )
        searched = draw_search(values, room / "search.svg")
        drawn |= {"scaling": law.read_text(), "search": searched.read_text()}
    drawn |= {"curve": training_curves.picture(), "run": front_page.picture()}
    drawn |= {"codes": codes_picture(), "experts": expert_tables.picture()}
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
