"""Write the tables in README.md and docs/ from results/, so that no number there is typed.

python scripts/readme.py          rewrite them
python scripts/readme.py --check  exit 1 if any is stale

What is between these comments is replaced:

<!-- table: results/FOLDER --> and <!-- /table -->          the table of a results folder
<!-- benchmark: NAME --> and <!-- /benchmark -->            the results of a benchmark
<!-- ratio: results/FOLDER A B --> and <!-- /ratio -->      perplexity ratios of pairs of methods, named as in the table
<!-- scaling: results/FOLDER --> and <!-- /scaling -->      the scaling law of a grid of runs
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from bench.compare import estimate, scaling_law
from bench.report import table
from bench.results.rows import newest
from bench.results.store import Store
from bench.system.text import escape_markdown

ROOT = Path(__file__).parent.parent


def leaderboard(folder: str) -> str:
    tables = table.text_tables(newest(Store(ROOT / folder, write=False)))
    return "\n".join(f"**{escape_markdown(t.title)}**\n\n{table.to_markdown(t)}" for t in tables)


def benchmark(name: str) -> str:
    saved = json.loads((ROOT / "results" / "benchmarks" / f"{name}.json").read_text())
    lines = [f"| {path} | {value} |" for path, value in _leaves(saved["figures"])]
    machine = saved["provenance"]["machine"]["cpu"]
    return (
        "\n".join([f"| `python benchmarks/{name}.py` on {escape_markdown(machine)} | |", "|---|---:|", *lines]) + "\n"
    )


def ratios(where: str) -> str:
    folder, *names = where.split()
    store = Store(ROOT / folder, write=False)
    lines = ["| perplexity ratio | | 95% interval | |", "|---|---:|---:|---|"]
    for a, b in zip(names[::2], names[1::2], strict=True):
        a, b = a.replace("_+_", " + "), b.replace("_+_", " + ")
        r = estimate.perplexity_ratio(estimate.perplexity_items(store, a), estimate.perplexity_items(store, b))
        over = f"{r.seeds} seeds, {r.clusters} articles" if r.seeds > 1 else f"{r.clusters} articles"
        lines.append(
            f"| {escape_markdown(a)} / {escape_markdown(b)} | {r.value:.4f} | {r.low:.4f} to {r.high:.4f} | {over} |"
        )
    return "\n".join(lines) + "\n"


def law(folder: str) -> str:
    points = scaling_law.read(ROOT / folder, "cast", "dense-ft")
    holdout, predicted = scaling_law.predict_holdout(points)
    fit = scaling_law.fit([p for p in points if p is not holdout])
    lines = [f"| {' | '.join(row.values())} |" for row in scaling_law.to_rows(fit, holdout, predicted)]
    runs = f"{len(fit.points)} runs of {len({p.model for p in points})} models"
    return "\n".join([f"| {runs} | | 95% interval |", "|---|---:|---:|", *lines]) + "\n"


def _leaves(figures: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    out = []
    for key, value in figures.items():
        if isinstance(value, dict) and "median" in value:
            spread = f"{value['min']:.2f} to {value['max']:.2f}" if value["min"] < value["max"] else "one round"
            out.append((prefix + key, f"{value['median']:.2f}× ({spread})"))
        elif isinstance(value, dict):
            out += _leaves(value, f"{prefix}{key}: ")
        elif not isinstance(value, list):
            out.append((prefix + key, escape_markdown(str(value))))
    return out


def render(text: str) -> str:
    for kind, make in (("table", leaderboard), ("benchmark", benchmark), ("ratio", ratios), ("scaling", law)):
        text = re.sub(
            rf"(<!-- {kind}: ([^>]+) -->\n).*?(<!-- /{kind} -->)",
            lambda match, make=make: f"{match[1]}\n{make(match[2])}\n{match[3]}",
            text,
            flags=re.S,
        )
    return text


def main() -> None:
    stale = []
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = path.read_text()
        if (fresh := render(text)) != text:
            stale.append(str(path.relative_to(ROOT)))
            if "--check" not in sys.argv:
                path.write_text(fresh)
    if stale and "--check" in sys.argv:
        sys.exit(f"out of date: {', '.join(stale)}: run python scripts/readme.py")


if __name__ == "__main__":
    main()
