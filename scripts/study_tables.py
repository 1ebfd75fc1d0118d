"""Tables of studies: the scaling law, the search, allocations, and rows without a record."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache

from page_records import DASH, ROOT, markdown

from bench import search
from bench.parts.forecasts.cards import split_cards
from bench.parts.forecasts.cost_model import CostModel
from bench.parts.forecasts.plan_costs import estimate_columns
from bench.parts.scaling import law as scaling_law
from bench.planning.plan import make_plan
from bench.planning.search_space import read_search
from bench.planning.spec import Spec
from bench.results.store import ReadOnlyStore
from bench.system.text import escape_markdown
from bench.system.toml import read_toml


def allocations(folder: str) -> str:
    """Return the damage of each file of `bench allocate`, predicted and measured."""
    rows = []
    for path in sorted((ROOT / folder).glob("*.json")):
        for choice, about in json.loads(path.read_text())["damage"].items():
            used = about.get("kept", about["bits"])
            damage = f"{about['predicted']:.4g}", f"{about['measured']:.4g}"
            rows.append((path.stem, choice, f"{used:g}", *damage))
    headers = ("file", "choice", ">bits, or share kept", ">predicted KL", ">measured KL")
    return markdown(headers, rows)


SCALING, SEARCH = "results/tiny-scaling", "results/tiny-trials"
"""Folders of the law and of the search that the pages show."""
METHOD, CONTROL = "cast", "dense-ft"
"""Methods whose losses the law compares."""


def law(folder: str) -> str:
    """Return the parameters of the scaling law of a grid of runs, and the run that was held out."""
    fit, holdout, predicted = fit_law(folder)
    models = {point.model for point in [*fit.points, holdout]}
    rows = [row.values() for row in scaling_law.to_rows(fit, holdout, predicted)]
    return markdown((f"{len(fit.points)} runs of {len(models)} models", ">", ">95% interval"), rows)


@cache
def fit_law(folder: str) -> tuple[scaling_law.Law, scaling_law.GridRun, scaling_law.FitInterval]:
    """Return the law of a grid without its largest run, that run, and its prediction."""
    return scaling_law.predict_holdout(scaling_law.read(ROOT / folder, METHOD, CONTROL))


def trials(folder: str) -> str:
    """Return the best trial of each method of the folder's search.toml.

    Methods are ordered by the lowest perplexity after as many trials as every method has.
    """
    searched = read_trials(folder)
    equal = min(len(done.trials) for done in searched)
    rows = []
    for done in sorted(searched, key=lambda one: one.best_so_far[equal - 1]):
        value, label = DASH, DASH
        if done.best:
            value, label = f"{done.best.value:.2f}", escape_markdown(done.best.label)
        diverged = sum(not math.isfinite(trial.value) for trial in done.trials)
        counts = f"{len(done.trials)}", f"{diverged}", f"{done.best_so_far[equal - 1]:.2f}"
        rows.append((escape_markdown(done.method), *counts, value, label))
    headers = ("method", ">trials", ">diverged", f">lowest perplexity after {equal}")
    return markdown((*headers, ">after all", "its trial"), rows)


@cache
def read_trials(folder: str) -> list[search.MethodTrials]:
    spec = read_toml(ROOT / folder / "search.toml") | {"results": ROOT / folder}
    return search.read_trials(*read_search(spec))


WANTED = {"methods": ("wanda", "sparsegpt", "recon"), "quantizers": ("none", "int4-gptq")}


WANTED_MODELS = (
    "llama3.2-1b", "llama3.2-3b", "llama2-7b", "mistral-7b", "llama3-8b", "llama3.1-8b",
    "llama2-13b", "llama2-70b", "llama3-70b",
)  # fmt: skip


CARD, CARD_GB = "h100", 80.0
"""Card of the wanted rows, and its memory in GB."""


def wanted(*folders: str) -> str:
    """Return models that no folder has, with the command and the cost of their rows on a card."""
    have = {record.identity.model for folder in folders for record in ReadOnlyStore(ROOT / folder)}
    typed = {name: ",".join(values) for name, values in WANTED.items()}
    found = []
    for model in set(WANTED_MODELS) - have:
        spec, cards = split_cards(Spec(models=(model,), device=CARD, **WANTED))
        # No record is of such a card.
        rows = estimate_columns(make_plan(spec), CostModel(()), cards)
        memory = max(row["about_device_GB"] for row in rows)
        minutes = sum(row["about_s"] for row in rows) / 60
        disk = sum(row["about_disk_GB"] for row in rows)
        flags = f"--model {model} --methods {typed['methods']} --quant {typed['quantizers']}"
        cells = (f"{len(rows)}", f"{memory:.0f}", f"{disk:.0f}", f"{minutes:.0f}")
        if memory <= CARD_GB:
            found.append((memory, (model, f"`bench run {flags}`", *cells)))
    costs = (">GB on the card", ">GB of disk", ">minutes of arithmetic")
    return markdown(("model", "command", ">rows", *costs), [row for _, row in sorted(found)])


TABLES: dict[str, Callable[..., str]] = {
    "allocation": allocations,
    "scaling": law,
    "search": trials,
    "wanted": wanted,
}
"""Functions by the first word of their comment."""
