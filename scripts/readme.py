"""Write the tables and references in README.md and docs/, so that no number or setting there is
typed.

python scripts/readme.py          rewrite them
python scripts/readme.py --check  print the pages that are stale; exit 1 if there is one

What is between these comments is replaced:

<!-- table: results/FOLDER --> and <!-- /table -->          the table of a results folder
<!-- leaders: results/A results/B --> and <!-- /leaders -->  the first rows of the folders'
leaderboard, in few columns <!-- benchmark: NAME --> and <!-- /benchmark -->            a figure of
a benchmark (docs/figures), and its numbers <!-- found: results/FOLDER --> and <!-- /found -->
how the settings of the folder's trained rows were found <!-- grid: NAME --> and <!-- /grid -->
the numbers of a benchmark, a line for each of its rows. NAME task calls
                                                        the first column `task` instead of `model`
<!-- rates: NAME --> and <!-- /rates -->                    the shares with intervals of a simulated
benchmark <!-- ratio: results/FOLDER A B --> and <!-- /ratio -->      perplexity ratios of pairs of
methods, named as in the table. Folders
                                                        are separated by commas. A pair with ?B is
                                                        left out until B is measured
<!-- wanted: results/A results/B --> and <!-- /wanted -->  models that no folder has, with the
command and the cost of their rows <!-- worth: results/FOLDER PATTERN -->                   whether
a row beats the pattern's best at its bytes or its arithmetic <!-- cards: results/FOLDER -->
the rows on the fronts of times that are computed for cards <!-- smaller: results/FOLDER MODEL -->
the first model's rows with those of a smaller one, by bits per byte <!-- profile: results/FOLDER
--> and <!-- /profile -->      what each track loses: a picture and tables for each model <!--
transforms: results/FOLDER -->                     ratios of perplexity after each transform <!--
best: results/FOLDER -->                           the best rows of few bits, of each model and
pattern <!-- allocation: results/FOLDER -->                    the damage of each file of bench
allocate, predicted and measured <!-- budget: results/A results/B --> and <!-- /budget -->  the
chain of stages to take with a budget of time, for each folder <!-- scaling: results/FOLDER --> and
<!-- /scaling -->      the scaling law of a grid of runs <!-- search: results/FOLDER --> and <!--
/search -->        the best trial of each method of the folder's search.toml <!-- curve:
results/FOLDER --> and <!-- /curve -->          trained methods after several budgets

scripts/reference.py has the comments for what the catalog and the program say.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import benchmark_figures
import frontier
import many_runs
import perplexity_ratios
import reference
import result_folders
import timed_shapes
import trained_rows
import training_curves
import transform_rows
import wanted_records

from bench.reporting import drawing, pareto, profile, table, table_figures
from bench.reporting import leaderboard as boards
from bench.reporting.table_figures import TableFigure
from bench.reporting.view import Table
from bench.results import metrics
from bench.results.rows import newest
from bench.results.store import ReadOnlyStore
from bench.system.text import escape_markdown

ROOT = Path(__file__).parent.parent
FIGURES = ROOT / "docs" / "figures"
LEADER_COLUMNS = ("method", "pattern", "quantizer", "bits per weight", "perplexity ratio")
"""First words of the columns' headers."""
MAX_LEADERS = 10
PROFILES = "results/tracks"
"""Folder whose profiles the pages show."""
FRONTIERS = {
    "tiny": "results/tiny-structure,results/tiny-structure-trained",
    "smollm2": "results/smollm2-structure,results/smollm2-135m-recon,results/smollm2-135m-wanda7",
}
"""Folders whose fronts the pages show, by the name of the picture."""
FORMER_MODEL = re.compile(r"smollm2-135m(?!-)")
"""Name of smollm2-135m-instruct-q4 in benchmarks that were saved before its alias was renamed. Not
names of folders."""


def leaderboard(folder: str) -> str:
    records = newest(ReadOnlyStore(ROOT / folder))
    tables = [
        f"**{escape_markdown(t.title)}**\n\n{table.to_markdown(t)}"
        for t in table.text_tables(records)
    ]
    return "\n".join([*tables, trained_rows.floors(trained_rows.read(records))])


def leaders(*folders: str) -> str:
    results = [result_folders.read(folder) for folder in folders]
    section = boards.make_sections(results, ROOT / "no papers")[0]
    tables = section.tables[0].to_text_tables()
    first = _leading(tables[0])
    notes = "\n".join(f"{escape_markdown(note)}\n" for few in tables for note in few.notes)
    shown = table.to_markdown(replace(first, notes=()))
    return f"{shown}\n<details><summary>Notes</summary>\n\n{notes}\n</details>\n"


def _leading(whole: table.TextTable) -> table.TextTable:
    """Return the first rows of a table in those of LEADER_COLUMNS that they have, and of each the
    first one."""
    begins = (
        [i for i, header in enumerate(whole.headers) if header.startswith(name)]
        for name in LEADER_COLUMNS
    )
    named = [found[0] for found in begins if found]
    shown = [i for i in named if any(line[i] != table.ABSENT for line in whole.lines[:MAX_LEADERS])]
    lines = [[line[i] for i in shown] for line in whole.lines[:MAX_LEADERS]]
    return table.TextTable(whole.title, [whole.headers[i] for i in shown], lines, whole.notes)


def beside_smaller(folder: str, model: str) -> str:
    """Return the largest model's rows by bytes and bits per byte, with those of a smaller model,
    and name the front."""
    section = boards.make_sections([result_folders.read(folder)], None, model)[0]
    front = next(
        f for t in section.tables for f in pareto.fronts(t) if f.y.metric == metrics.MEAN_BITS
    )
    lines = [
        f"| {escape_markdown(p.name)} | {p.x / 1e6:.1f} | {p.y:.4f} |"
        for p in sorted(front.points, key=lambda p: p.y)
    ]
    heads = [
        f"| {escape_markdown(section.title)}, and {escape_markdown(model)} | bytes packed, MB | "
        f"{front.y.name} |"
    ]
    return "\n".join(
        [*heads, "|---|---:|---:|", *lines, "", escape_markdown(pareto.describe(front)), ""]
    )


def profiles(folder: str) -> str:
    """Return the profile of each model of a folder: its picture, and the tables folded under it."""
    parts = []
    for name, one, picture in _profiles(folder):
        parts.append(
            f"![{escape_markdown(picture.title)}]({FIGURES.name}/{name}.svg)\n\n{profile.CAPTION}\n"
        )
        for text, about in zip(profile.text_tables(one), profile.CAPTIONS, strict=False):
            summary = f"<details><summary>{escape_markdown(text.title)}</summary>"
            # That one is under the picture.
            note = "" if about == profile.CAPTION else f"{about}\n\n"
            parts.append(f"{summary}\n\n{note}{table.to_markdown(text)}\n</details>\n")
    return "\n".join(parts)


@cache
def _profiles(folder: str) -> list[tuple[str, Table, TableFigure]]:
    """Return the file name, the table and the heat map of each model of a folder."""
    if not (ROOT / folder / "records").is_dir():
        return []
    sections = boards.make_sections([result_folders.read(folder)], ROOT / "no papers")
    found = [
        (section.title, section.tables[0])
        for section in sections
        if profile.rows_of(section.tables[0])
    ]
    return [
        (f"profile-{title}", one, table_figures.draw_tracks(one, title)) for title, one in found
    ]


def allocations(folder: str) -> str:
    """Return the damage of each choice in the files of `bench allocate`: the sum over the linears,
    and what was measured."""
    lines = [
        "| file | choice | bits, or share kept | predicted KL | measured KL |",
        "|---|---|---:|---:|---:|",
    ]
    for path in sorted((ROOT / folder).glob("*.json")):
        for choice, about in json.loads(path.read_text())["damage"].items():
            used = about.get("kept", about["bits"])
            lines.append(
                f"| {path.stem} | {choice} | {used:g} | {about['predicted']:.4g} | "
                f"{about['measured']:.4g} |"
            )
    return "\n".join(lines) + "\n"


def benchmark(name: str) -> str:
    """Return a figure with its numbers folded under it, or a line that it was not measured."""
    if not (ROOT / "results" / "benchmarks" / f"{name}.json").exists():
        return f"*Not measured yet:* `python benchmarks/{name}.py`\n"
    saved = _saved(name)
    machine = escape_markdown(saved["provenance"]["machine"]["cpu"])
    lines = [f"| {path} | {value} |" for path, value in _leaves(saved["figures"])]
    command = f"`python benchmarks/{name}.py` on {machine}"
    table_ = "\n".join([f"| {command} | |", "|---|---:|", *lines])
    picture = (
        f"![{name}: the numbers of the table below]({FIGURES.name}/{name}.svg)\n\n"
        if _figure(name)
        else ""
    )
    return f"{picture}<details><summary>The numbers</summary>\n\n{table_}\n\n</details>\n"


def grid(name: str, first: str = "model") -> str:
    """Return the numbers of a benchmark as one table, with a line for each first key."""
    rows = {row: dict(_leaves(values)) for row, values in _saved(name)["figures"].items()}
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    lines = [
        f"| {row} | " + " | ".join(cells.get(c, "–") for c in columns) + " |"
        for row, cells in rows.items()
    ]
    return (
        "\n".join(
            [f"| {first} | {' | '.join(columns)} |", "|---" + "|---:" * len(columns) + "|", *lines]
        )
        + "\n"
    )


def rates(name: str) -> str:
    """Return the shares of a benchmark that were simulated, with their 95% intervals."""
    leaves = _leaves(_saved(name)["figures"])
    # "Before" are shares by the rules of an earlier commit.
    now = [(path, value) for path, value in leaves if ", before" not in path]
    lines = [
        f"| {path} | {value} |" for path, value in now if benchmark_figures.SPREAD.fullmatch(value)
    ]
    return (
        "\n".join([f"| simulated by `python benchmarks/{name}.py` | share |", "|---|---:|", *lines])
        + "\n"
    )


def _saved(name: str) -> dict[str, Any]:
    text = (ROOT / "results" / "benchmarks" / f"{name}.json").read_text()
    saved: dict[str, Any] = json.loads(FORMER_MODEL.sub("smollm2-135m-instruct-q4", text))
    return saved


@cache
def _figure(name: str) -> str:
    return benchmark_figures.draw(name, _saved(name)["figures"])


def figures() -> dict[Path, str]:
    """Return the text of each file in FIGURES: of benchmarks that have numbers to draw, fronts, a
    law, a search, profiles."""
    names = sorted(path.stem for path in (ROOT / "results" / "benchmarks").glob("*.json"))
    drawn = {FIGURES / f"{name}.svg": svg for name in names if (svg := _figure(name))}
    drawn |= {
        FIGURES / f"frontier-{k}.svg": drawing.to_file(frontier.picture(v))
        for k, v in FRONTIERS.items()
    }
    drawn[FIGURES / "frontier-cards.svg"] = drawing.to_file(
        frontier.card_picture(FRONTIERS["smollm2"])
    )
    drawn |= {FIGURES / f"{name}.svg": svg for name, svg in many_runs.figures().items()}
    drawn[FIGURES / "curve.svg"] = training_curves.picture()
    return drawn | {
        FIGURES / f"{name}.svg": drawing.to_file(f.svg) for name, _, f in _profiles(PROFILES)
    }


def _leaves(figures: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    out = []
    for key, value in figures.items():
        name = prefix + benchmark_figures.readable(key)
        if isinstance(value, dict) and "median" in value:
            spread = (
                f"{value['min']:.2f} to {value['max']:.2f}"
                if value["min"] < value["max"]
                else "one round"
            )
            out.append((name, f"{value['median']:.2f}× ({spread})"))
        elif isinstance(value, dict):
            out += _leaves(value, f"{name}: ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            out.append(
                (
                    name,
                    benchmark_figures.number(
                        value / 1e6 if key.startswith("peak_bytes") else value
                    ),
                )
            )
        elif not isinstance(value, list):
            out.append((name, escape_markdown(str(value))))
    return out


BLOCKS: dict[str, Callable[..., str]] = {
    "table": leaderboard,
    "found": perplexity_ratios.found,
    "leaders": leaders,
    "profile": profiles,
    "allocation": allocations,
    "benchmark": benchmark,
    "grid": grid,
    "rates": rates,
    "ratio": perplexity_ratios.ratios,
    "transforms": transform_rows.transforms,
    "best": transform_rows.best,
    "budget": perplexity_ratios.budget,
    "scaling": many_runs.law,
    "search": many_runs.trials,
    "curve": training_curves.table,
    "wanted": wanted_records.wanted,
    "cards": frontier.cards,
    "smaller": beside_smaller,
    "times": timed_shapes.times,
    "worth": frontier.worth,
} | reference.BLOCKS
"""Functions that make the text between two comments, by the first word in the comment. They get the
other words."""

BLOCK = re.compile(
    rf"^(<!-- ({'|'.join(BLOCKS)})(?:: ([^>]+))? -->\n).*?(<!-- /\2 -->)$", re.DOTALL | re.MULTILINE
)


def render(text: str) -> str:
    """Return a page with the text between its comments made again."""

    def fill(match: re.Match[str]) -> str:
        made = BLOCKS[match[2]](*(match[3] or "").split()).strip("\n")
        return f"{match[1]}\n{made}\n\n{match[4]}" if made else f"{match[1]}{match[4]}"

    return BLOCK.sub(fill, text)


def main() -> None:
    files = {
        path: render(path.read_text())
        for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    }
    files |= figures()
    stale = [
        path for path, fresh in files.items() if not path.is_file() or path.read_text() != fresh
    ]
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
