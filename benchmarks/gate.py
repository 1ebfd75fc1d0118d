"""False alarms, power and run time of a gate.

python benchmarks/gate.py [--gates 2000]

A/A: gates of 20 metrics of which none changed. Perplexities are per-window losses from results/tiny: a metric's change is
the difference of two rows there, article by article, without its mean, and each gate draws other articles for all of
them at once. Accuracies are simulated by item, since results/ has none yet: questions flip both ways, easy ones rarely.
Latencies are log-normal. A gate is wrong if any of the 20 is called a REGRESSION.

Planted: in each gate one accuracy loses 3 points, or one perplexity 2%. The share found is compared with theory. Of
13 articles as uneven as these a mean is far from normal: theory is given the t the bootstrap asks for there. 60, about as
many as WikiText-2 has, are drawn beside.

The simulation is not timed. Seconds depend on the machine, so --speed-only measures them again on a quiet machine, and
keeps the rest of the record.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import power
from harness import RESULTS, finish, recorded, seconds
from scipy.special import stdtr
from scipy.stats import binom, binomtest

from bench.compare import baseline, settings, verdict
from bench.compare.resolve import read
from bench.results import metrics
from bench.results.store import Store
from bench.stats import bootstrap, multiple_tests

METRICS = {"perplexity": 10, "accuracy": 8, "latency": 2}
QUESTIONS, DISCORDANT = 2000, 0.08
"""Accuracy, and the share of its questions that flip either way when nothing is worse."""
BLOCKS, JITTER = 12, 0.02
LOSS, PERPLEXITY_LOSS = 0.03, 0.02
ALPHA, SCREEN = 0.05, 2.0
"""No bootstrap is run where |t| is under SCREEN: its p is far above alpha / 20 there."""
MARGINS = {
    "perplexity": np.log1p(metrics.find("perplexity").margin),
    "accuracy": metrics.find("acc").margin,
    "latency": np.log1p(metrics.TIME_MARGIN),
}


def real_changes() -> tuple[np.ndarray, np.ndarray]:
    """Article by article, the difference of every two perplexity rows of results/tiny: [pairs, articles]; and tokens."""
    side = read(RESULTS.parent / "tiny")
    rows, weights = [], np.empty(0)
    for record in side.records:
        if record.identity.measure == "perplexity":
            items = side.items(record)
            names, index = np.unique(items.clusters.astype(str), return_inverse=True)
            rows.append(np.bincount(index, items.columns["value"], len(names)))
            weights = np.bincount(index, items.weights, len(names))
    changes = np.stack([a - b for a, b in itertools.combinations(rows, 2)])
    return changes - changes.sum(1, keepdims=True) / weights.sum() * weights, weights


def simulate(
    gates: int, planted: str, rng: np.random.Generator, articles: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """p, loss and margin of each metric: [gates, metrics]. planted: the metric that lost, or none; articles: drawn."""
    changes, weights = real_changes()
    parts = [
        _perplexities(gates, changes, weights, PERPLEXITY_LOSS if planted == "perplexity" else 0.0, rng, articles),
        _accuracies(gates, LOSS if planted == "accuracy" else 0.0, rng),
        _latencies(gates, rng),
    ]
    margins = np.concatenate([np.full(n, MARGINS[k]) for k, n in METRICS.items()])
    return np.concatenate([p for p, _ in parts], 1), np.concatenate([x for _, x in parts], 1), margins


def _perplexities(
    gates: int, changes: np.ndarray, weights: np.ndarray, loss: float, rng: Any, articles: int | None
) -> tuple[Any, Any]:
    """Simulate perplexities. The first of each gate is worse. All of a gate are measured on the same articles."""
    count, articles = METRICS["perplexity"], articles or len(weights)
    level = multiple_tests.bonferroni(ALPHA, sum(METRICS.values()))
    p, losses = np.ones((gates, count)), np.zeros((gates, count))
    for g in range(gates):
        columns = rng.integers(len(weights), size=articles)
        w = weights[columns]
        drawn = changes[rng.integers(len(changes), size=count)][:, columns] * rng.choice((-1, 1), (count, 1))
        drawn[0] += np.log1p(loss) * w
        for i, row in enumerate(drawn):
            between = bootstrap.variance_parts(row[None], w).total
            losses[g, i] = row.sum() / w.sum()
            t = losses[g, i] / between**0.5
            if abs(t) < SCREEN:
                p[g, i] = 2 * stdtr(bootstrap.effective_size(w) - 1, -abs(t))
            else:
                p[g, i] = bootstrap.studentized_bootstrap(row[None], w, level).p
    return p, losses


def _accuracies(gates: int, loss: float, rng: Any) -> tuple[Any, Any]:
    """Simulate accuracies. Each question has its chance to flip; a loss makes right ones likelier to be lost. The first has lost."""
    count = METRICS["accuracy"]
    own = rng.beta(0.5, 5.75, QUESTIONS)  # mean 0.08: most questions hardly ever flip
    own *= DISCORDANT / own.mean()
    shares = np.full(count, 0.5)
    shares[0] += loss / DISCORDANT / 2
    lost, gained = np.empty((gates, count), int), np.empty((gates, count), int)
    for g in range(gates):
        flipped = (rng.random((count, QUESTIONS)) < own).sum(1)
        lost[g] = rng.binomial(flipped, shares)
        gained[g] = flipped - lost[g]
    p = np.minimum(1.0, 2 * binom.cdf(np.minimum(lost, gained), lost + gained, 0.5))
    return p, (lost - gained) / QUESTIONS


def _latencies(gates: int, rng: Any) -> tuple[Any, Any]:
    ratios = rng.normal(0, JITTER, (gates, METRICS["latency"], BLOCKS))
    mean, stderr = ratios.mean(2), ratios.std(2, ddof=1) / BLOCKS**0.5
    return 2 * stdtr(BLOCKS - 1, -np.abs(mean / stderr)), mean


def regressions(p: np.ndarray, losses: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """Return what the gate calls regressions: worse than the margin, and Holm's p under alpha."""
    adjusted = np.stack([multiple_tests.holm(list(row)) for row in p])
    return (adjusted < ALPHA) & (losses > margins)


def interval(found: int, of: int) -> str:
    low, high = binomtest(found, of).proportion_ci()
    return f"{found / of:.4f} ({low:.4f} to {high:.4f})"


def theory(rng: Any, articles: int) -> float:
    """Power for ln 1.02 at alpha / 20, over all changes."""
    changes, weights = real_changes()
    level = multiple_tests.bonferroni(ALPHA, sum(METRICS.values()))
    loss = float(np.log1p(PERPLEXITY_LOSS))
    found = [
        power.studentized_power(loss, change, weights, level, rng, clusters=articles, draws=4) for change in changes
    ]
    return float(np.mean(found))


def time_a_gate(records: int, changed: int) -> dict[str, Any]:
    """Time a gate: a folder against a baseline file of this many records, with a few changed: their scores are read and resampled."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from helpers import fake_records

    with tempfile.TemporaryDirectory() as scratch:
        roots = Path(scratch) / "before", Path(scratch) / "after"
        for root, made in zip(roots, ("a", "b"), strict=True):
            store = Store(root)
            for i in range(changed):
                fake_records.perplexity(root, method=f"p{i}", made=made, noise=i + 1 if made == "b" else 0)
            for i in range(records - changed):
                found = fake_records.record(f"m{i}", measure="pattern", protocol="targets", token_digest="")
                found.readings = [
                    fake_records.ReadingRow(metric="violated_groups", value=0.0, unit="1", better="lower")
                ]
                store.path(found.key).write_text(found.to_json(indent=1))
        kept = baseline.write(read(roots[0]), Path(scratch) / "baseline.zip")
        took, used = [], []
        for _ in range(3):
            started = time.process_time()
            took.append(seconds(lambda: _judge(kept, roots[1])))
            used.append(time.process_time() - started)
    label = {"records on either side": records, "of them changed": changed}
    return label | {"seconds": round(min(took), 2), "seconds of CPU": round(min(used), 2)}


def _judge(before: Path, after: Path) -> verdict.Comparison:
    return verdict.compare(read(before), read(after), settings.read(None))


def simulated(gates: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    figures: dict[str, Any] = {"gates": gates, "metrics a gate": json.dumps(METRICS).replace('"', "").strip("{}")}
    p, losses, margins = simulate(gates, "", rng)
    wrong, at_all = regressions(p, losses, margins), regressions(p, losses, 0 * margins)
    figures["A/A: share of gates with a false alarm"] = interval(int(wrong.any(1).sum()), gates)
    figures["A/A: the same with margins of 0"] = interval(int(at_all.any(1).sum()), gates)
    level = multiple_tests.bonferroni(ALPHA, sum(METRICS.values()))
    found = regressions(*simulate(gates, "accuracy", rng))[:, METRICS["perplexity"]]
    figures["3 points of accuracy: found"] = interval(int(found.sum()), gates)
    figures["3 points of accuracy: theory"] = round(
        power.mcnemar_power(QUESTIONS, DISCORDANT, LOSS, level, MARGINS["accuracy"]), 4
    )
    for articles in (13, 60):
        found = regressions(*simulate(gates // 2, "perplexity", rng, articles))[:, 0]
        label = f"2% of perplexity, {articles} articles"
        figures[f"{label}: found"] = interval(int(found.sum()), gates // 2)
        figures[f"{label}: theory"] = round(theory(rng, articles), 4)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gates", type=int, default=2000)
    parser.add_argument("--speed-only", action="store_true")
    asked = parser.parse_args()
    figures = recorded("gate") if asked.speed_only else simulated(asked.gates)
    finish("gate", figures | {"speed": time_a_gate(10_000, 50)})


if __name__ == "__main__":
    main()
