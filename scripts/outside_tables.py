"""Losses of our models beside those that papers print of LLaMA2-7B and LLaMA3-8B."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise

from page_records import DASH, markdown, read
from size_tables import sized_rows

from bench.reporting.folders import PUBLISHED
from bench.reporting.from_papers import PaperRow, read_rows
from bench.system.grouping import group_by
from bench.system.text import escape_markdown

OUTSIDE = ("LLaMA2-7B", "LLaMA3-8B")
TRAINED = ("efficientqat", "aqlm", "maskllm", "cast", "permllm")
"""Beginnings of the names of methods that train weights or masks on the loss of the whole model."""
KINDS = ("4 bits", "3 bits", "2 bits", "SparseGPT 2:4", "Wanda 2:4")
Losses = dict[str, dict[str, list[float]]]
"""Ratios of perplexity to the dense model, by model and kind of row."""


def outside(*folders: str) -> str:
    """Return the ratios of our models and of papers by kind, and where their orders differ."""
    found: Losses = {}
    ours = chain.from_iterable(_measured(folder) for folder in folders)
    for _, model, kind, ratio in sorted(ours):
        found.setdefault(model, {}).setdefault(kind, []).append(ratio)
    for model, kind, ratio in _printed():
        found.setdefault(model, {}).setdefault(kind, []).append(ratio)
    kinds = list(KINDS)
    for kind in KINDS:
        if any(f"{kind}, trained" in of for of in found.values()):
            kinds.append(f"{kind}, trained")
    kinds.append("2:4, trained")
    lines = [[kind, *(_range(of.get(kind, [])) for of in found.values())] for kind in kinds]
    heads = ("", *(f">{escape_markdown(model)}" for model in found))
    return f"{markdown(heads, lines)}\n{_orders(found)}"


def _measured(folder: str) -> Iterator[tuple[float, str, str, float]]:
    """Yield rows of our models with their numbers of parameters."""
    results = read(folder)
    for model, records in group_by(results.records, lambda r: r.identity.model).items():
        rows = list(sized_rows(records))
        dense = next(row for row in rows if row.label == "dense" and row.pattern == "dense")
        for row in rows:
            identity = next(iter(row.seeds.values())).identity
            kind = ""
            if row.pattern == "dense" and identity.quantizer != "none":
                kind = f"{round(row.bits - 0.3)} bits"
            elif row.pattern == "2:4" and identity.quantizer == "none":
                kind = _pruner(identity.stages[-1].partition(":")[0], bool(identity.training))
            if kind:
                yield row.parameters, model, kind, row.perplexity / dense.perplexity


def _printed() -> Iterator[tuple[str, str, float]]:
    """Yield the rows of papers, over the dense row of their protocol. Other texts are left out."""
    rows: list[PaperRow] = []
    for path in sorted(PUBLISHED.glob("*.csv")):
        rows += [row for row in read_rows(path) if row.model in OUTSIDE and not row.caveat]
    for (model, _), own in group_by(rows, lambda row: (row.model, row.protocol)).items():
        dense = next((row.perplexity for row in own if row.method == "dense"), None)
        for row in own:
            trained = row.method.startswith(TRAINED)
            kind = ""
            if row.pattern == "2:4":
                kind = _pruner(row.method, trained)
            elif bits := re.search(r"\d", row.quantizer):
                kind = f"{bits[0]} bits" + (", trained" if trained else "")
            if kind and dense:
                yield model, kind, float(row.perplexity / dense)


def _pruner(name: str, trained: bool) -> str:
    if trained:
        return "2:4, trained"
    return {"sparsegpt": "SparseGPT 2:4", "wanda": "Wanda 2:4"}.get(name, "")


def _range(ratios: Iterable[float]) -> str:
    values = sorted(ratios)
    if not values:
        return DASH
    if len(values) == 1:
        return f"×{values[0]:.2f}"
    return f"×{values[0]:.2f} to ×{values[-1]:.2f}, {len(values)} rows"


def _orders(found: Losses) -> str:
    """Return which neighbours of KINDS have one order in all models, by their best rows."""
    lines = []
    for first, second in pairwise(KINDS):
        both = {m: of for m, of in found.items() if first in of and second in of}
        against = [m for m, of in both.items() if min(of[first]) >= min(of[second])]
        if against:
            names = escape_markdown(", ".join(against))
            lines.append(f"{first} before {second} in {len(both) - len(against)}, not in {names}")
        else:
            lines.append(f"{first} before {second} in all {len(both)}")
    text = f"Models in which the best row of a kind loses less: {'; '.join(lines)}."
    if exceptions := list(_smaller_and_better(found)):
        text += (
            " Size alone does not order models: a model here loses no more than a published one "
            f"by the best row of {'; '.join(exceptions)}."
        )
    return text + "\n"


def _smaller_and_better(found: Losses) -> Iterator[str]:
    for kind in KINDS:
        ours = [min(of[kind]) for m, of in found.items() if kind in of and m not in OUTSIDE]
        theirs = {m: min(found[m][kind]) for m in OUTSIDE if kind in found[m]}
        models = [model for model, ratio in theirs.items() if ours and ratio >= min(ours)]
        if models:
            yield f"{kind} ({', '.join(models)})"


TABLES = {"outside": outside}
"""Functions that make a table of results/boards.toml, by its kind."""
