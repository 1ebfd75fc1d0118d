"""Parts of pages from many runs: the scaling law of a grid, and the best trials of a search."""

from __future__ import annotations

import math
from functools import cache

from reference import ROOT

from bench import search
from bench.compare import scaling_law
from bench.planning.search import read_search
from bench.reporting.figures import draw_scaling, draw_search
from bench.system.cache import temporary_folder
from bench.system.text import escape_markdown
from bench.system.toml import read_toml

SCALING, SEARCH = "results/tiny-scaling", "results/tiny-trials"
METHOD, CONTROL = "cast", "dense-ft"
"""Methods whose losses the law compares."""


def law(folder: str) -> str:
    """Return the parameters of the scaling law of a grid of runs, and the run that was held out."""
    fit, holdout, predicted = _fit(folder)
    lines = [
        f"| {' | '.join(row.values())} |" for row in scaling_law.to_rows(fit, holdout, predicted)
    ]
    runs = f"{len(fit.points)} runs of {len({p.model for p in [*fit.points, holdout]})} models"
    return "\n".join([f"| {runs} | | 95% interval |", "|---|---:|---:|", *lines]) + "\n"


@cache
def _fit(folder: str) -> tuple[scaling_law.Law, scaling_law.GridRun, scaling_law.FitInterval]:
    """Return the law of a grid of runs, the largest run, which is not fitted, and its
    prediction."""
    return scaling_law.predict_holdout(scaling_law.read(ROOT / folder, METHOD, CONTROL))


def trials(folder: str) -> str:
    """Return the best trial of each method, and the lowest perplexity after as many trials as every
    method has."""
    found = _searched(folder)
    equal = min(len(done.trials) for done in found)
    lines = [
        f"| method | trials | diverged | lowest perplexity after {equal} | after all | its trial |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for done in sorted(found, key=lambda one: one.best_so_far[equal - 1]):
        value, label = (
            (f"{done.best.value:.2f}", escape_markdown(done.best.label))
            if done.best
            else ("–", "–")
        )
        diverged = sum(not math.isfinite(trial.value) for trial in done.trials)
        first = f"{done.best_so_far[equal - 1]:.2f}"
        lines.append(
            f"| {escape_markdown(done.method)} | {len(done.trials)} | {diverged} | {first} | "
            f"{value} | {label} |"
        )
    return "\n".join(lines) + "\n"


@cache
def _searched(folder: str) -> list[search.MethodTrials]:
    spec = read_toml(ROOT / folder / "search.toml") | {"results": ROOT / folder}
    return search.read_trials(*read_search(spec))


def figures() -> dict[str, str]:
    """Return the figures of the law and of the search as SVG, by name."""
    fit, holdout, _ = _fit(SCALING)
    trials = {one.method: [t.value for t in one.trials] for one in _searched(SEARCH)}
    with temporary_folder("figures") as room:
        drawn = {
            "scaling": draw_scaling(fit, room / "scaling.svg", METHOD, CONTROL, holdout),
            "search": draw_search(trials, room / "search.svg"),
        }
        return {name: path.read_text() for name, path in drawn.items()}
