"""Orders of methods and of tracks in results/tracks, and the questions that a comparison needs.

- Rank correlation (Spearman) of the loss in each track with the loss in perplexity, over the
  compressed rows of a model.
- Rank correlation of two models' orders of tracks, each the mean loss over the rows that both have.
- Questions that a paired test needs to tell two rows apart with 80% power at the level 5%: by bits
  per byte, and by the accuracy in the task's ranking, on the same questions. For each of PAIRS that
  has records.

An interval is from 2,000 draws of every loss from its normal error. Such draws have the error
twice, which lowers correlations, so an interval reaches at least to its value.

python benchmarks/track_orders.py [--folders A,B]
"""

from __future__ import annotations

import math
from itertools import combinations
from operator import truediv
from pathlib import Path
from statistics import median

import numpy as np
from harness import ROOT, Figures, finish, start
from scipy.special import ndtri
from scipy.stats import spearmanr

from bench.comparing.result_arguments import read
from bench.comparing.result_set import ResultSet
from bench.reporting import board, profile
from bench.reporting.labelled_rows import is_file
from bench.reporting.view import Table
from bench.results.record import Record

DRAWS = 2000
POWER, LEVEL = 0.8, 0.05
PAIRS = (
    ("sparsegpt 2:4", "sparsegpt 4:8"),
    ("wanda 2:4", "sparsegpt 2:4"),
    ("sparsegpt 2:4", "sparsegpt 6:8"),
)
"""Pairs of rows, with the one that is expected to be worse first."""
Rows = dict[str, dict[str, tuple[float, float]]]
"""Loss and its standard error by row and track, and under "perplexity" that in perplexity."""


def losses(table: Table) -> Rows:
    """Return the losses of a table's rows, except files, whose weights are the dense model's."""
    out: Rows = {}
    for row in (table.rows[k] for k in profile.rows_of(table)):
        facts, loss = row.facts, row.facts.loss if row.facts else None
        if (
            facts
            and loss
            and loss.low is not None
            and loss.high is not None
            and not is_file(row.filters)
        ):
            half = (loss.high - loss.low) / 2 / float(ndtri(1 - LEVEL / 2))
            own = {name: (x.loss.value, x.change.stderr) for name, x in facts.tracks.items()}
            out[row.name] = own | {"perplexity": (loss.value, half)}
    return out


def with_interval(one: list[tuple[float, float]], other: list[tuple[float, float]]) -> str:
    """Return the rank correlation of two lists of values with errors, with its 95% interval."""
    rng = np.random.default_rng(0)
    (a, da), (b, db) = (np.array(x).T for x in (one, other))
    draws = [spearmanr(rng.normal(a, da), rng.normal(b, db)).statistic for _ in range(DRAWS)]
    value = spearmanr(a, b).statistic
    low, high = np.nanquantile([*draws, value], [LEVEL / 2, 1 - LEVEL / 2])
    return f"{value:.2f} ({low:.2f} to {max(high, value):.2f})"


def orders_of_methods(rows: Rows) -> dict[str, str]:
    tracks = dict.fromkeys(name for own in rows.values() for name in own if name != "perplexity")
    found = {}
    for track in tracks:
        pairs = [(own[track], own["perplexity"]) for own in rows.values() if track in own]
        if len(pairs) > 2:
            found[track] = with_interval(*map(list, zip(*pairs, strict=True)))
    return found


def order_of_tracks(one: Rows, other: Rows) -> str:
    """Return the rank correlation of two models' mean losses by track, over the rows of both."""
    shared = [name for name in one if name in other]
    own = [set(rows[name]) for rows in (one, other) for name in shared]
    tracks = sorted(set.intersection(*own) - {"perplexity"})

    def means(rows: Rows) -> list[tuple[float, float]]:
        found = []
        for track in tracks:
            values, errors = zip(*(rows[name][track] for name in shared), strict=True)
            found.append((float(np.mean(values)), math.hypot(*errors) / len(shared)))
        return found

    text = with_interval(means(one), means(other))
    return f"{text} over {len(shared)} rows and {len(tracks)} tracks"


def questions_needed(
    pair: tuple[str, str], records: list[Record], results: ResultSet
) -> dict[str, Figures]:
    """Return the questions that tell two rows apart, by track, bits per byte and accuracy."""
    names = (*pair, "dense dense")
    rows = {name: profile.by_task(r for r in records if _name(r) == name) for name in names}
    found: dict[str, dict[str, list[float]]] = {}
    for task in sorted(set.intersection(*map(set, rows.values()))):
        (a, b, dense) = (results.items(rows[name][task][0]).columns for name in names)
        of_track = found.setdefault(task.partition("/")[0], {"bits": [], "accuracy": []})
        of_track["bits"] += list((a["value"] - b["value"]) / dense["value"].mean())
        if "choice" in a:
            right = f"acc_{rows[pair[0]][task][0].notes['ranking']}"
            of_track["accuracy"] += list(b[right] - a[right])
    needed: dict[str, Figures] = {}
    for track, kinds in found.items():
        needed[track] = {f"by {kind}": _needed(np.array(x)) for kind, x in kinds.items() if x}
    return needed


def _name(record: Record) -> str:
    identity = record.identity
    quantizer = "" if identity.quantizer == "none" else f" {identity.quantizer}"
    return f"{identity.method} {identity.pattern}{quantizer}"


def _sums(answers: list[Record], cost: str) -> list[float]:
    """Return what the tasks of each row cost together."""
    sums: dict[str, float] = {}
    for record in answers:
        sums[_name(record)] = sums.get(_name(record), 0.0) + record.cost.get(cost, 0)
    return list(sums.values())


def _needed(differences: np.ndarray) -> int | str:
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    if mean <= 0:
        return f"none: it is not worse in these {len(differences)}"
    return math.ceil(((float(ndtri(1 - LEVEL / 2)) + float(ndtri(POWER))) * spread / mean) ** 2)


def main(folders: str = str(ROOT / "results" / "tracks")) -> None:
    results = board.merge([read(Path(folder)) for folder in folders.split(",")])
    models = dict.fromkeys(r.identity.model for r in results.records)
    figures: Figures = {}
    rows: dict[str, Rows] = {}
    for model in models:
        records = [r for r in results.records if r.identity.model == model]
        table = next(board.boards_of(model, results.only(model, records))).make_table()
        rows[model] = losses(table)
        answers = [r for r in records if r.identity.measure == profile.MEASURE and r.status == "ok"]
        run = sum(r.cost.get("tokens", 0) for r in answers)
        alone = sum(r.notes.get("tokens_one_by_one", 0) for r in answers)
        took = _sums(answers, "wall_s")
        rates = map(truediv, _sums(answers, "tokens"), took)
        figures[model] = {
            "rows": len(rows[model]),
            "seconds of a row, one thread (median)": round(median(took)),
            "tokens/s, one thread (median of rows)": round(median(rates)),
            "tokens run, share of those of each pair alone": round(run / alone, 3),
            "rank correlation with perplexity": orders_of_methods(rows[model]),
        }
        for pair in PAIRS:
            if needed := questions_needed(pair, records, results):
                figures[model][f"questions to tell {pair[0]} from {pair[1]}"] = needed
    for one, other in combinations(models, 2):
        if set(rows[one]) & set(rows[other]):
            figures[f"order of tracks, {one} and {other}"] = order_of_tracks(rows[one], rows[other])
    finish("track_orders", figures)


if __name__ == "__main__":
    start(main)
