"""Share of 95% intervals of a leaderboard that miss the truth, with one seed, two and three.

python benchmarks/intervals.py [--intervals 2000]

Two rows are equal, so the true ratio of their perplexities is 1. The losses by article are real:
the difference of two perplexity rows of results/smollm2-135m-wanda7 or results/tiny-methods that
are within 25% of each other, without its mean, with other articles drawn each time. Each seed moves
each row by a normal deviate of the given standard deviation.

Before: no noise between seeds was added. After: it is added. It is measured on five other rows with
three seeds each, as many as that model has, or on one such row, or assumed
(bench/measures/perplexity.py).
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
from harness import ROOT, Figures, finish, start
from scipy.special import stdtrit
from scipy.stats import binomtest

from bench.compare.result_arguments import read
from bench.results import metrics
from bench.stats import bootstrap
from bench.stats.seed_noise import SeedNoise, add_seed_noise

FOLDERS = ("smollm2-135m-wanda7", "tiny-methods")
SIMILAR = 0.25
"""Largest difference of ln perplexity of two rows whose losses are compared."""
LEVEL = 0.05
DEVIATIONS = (0.003, 0.005, 0.01, 0.02)
"""Standard deviations of ln perplexity between seeds of a row."""
SEEDED_ROWS, SEEDS = 5, 3

Losses = tuple[np.ndarray, np.ndarray]
"""Rows of losses by article, [rows, articles], and the tokens of each article."""


def real_losses(folder: Path) -> Losses:
    """Return the summed loss of each article in each perplexity row of a folder."""
    side = read(folder)
    rows, weights = [], np.empty(0)
    for record in side.records:
        if record.identity.measure == "perplexity" and record.status == "ok":
            items = side.items(record)
            names, index = np.unique(items.clusters.astype(str), return_inverse=True)
            rows.append(np.bincount(index, items.columns["value"], len(names)))
            weights = np.bincount(index, items.weights, len(names))
    return np.stack(rows), weights


def real_changes(losses: Losses) -> Losses:
    """Return the difference of every two similar rows without its mean: [pairs, articles]."""
    rows, weights = losses
    changes = np.stack([a - b for a, b in itertools.combinations(rows, 2)])
    means = changes.sum(1, keepdims=True) / weights.sum()
    # A pair without noise is one artifact that was measured twice.
    kept = (np.abs(means[:, 0]) <= SIMILAR) & (np.abs(changes - means * weights).max(1) > 1e-6)
    return (changes - means * weights)[kept], weights


def share(missed: np.ndarray) -> str:
    """Return the share of True, and its 95% interval, as text."""
    low, high = binomtest(int(missed.sum()), len(missed)).proportion_ci()
    return f"{missed.mean():.4f} ({low:.4f} to {high:.4f})"


def estimate(sums: np.ndarray, weights: np.ndarray) -> bootstrap.Estimate:
    """Estimate as a leaderboard does.

    The bootstrap can only widen Student's interval, so it is left out if that holds 0.
    """
    parts = bootstrap.variance_parts(sums, weights)
    freedom = bootstrap.degrees_of_freedom(parts, weights, len(sums))
    value = float(sums.mean(0).sum() / weights.sum())
    if abs(value) < parts.total**0.5 * stdtrit(freedom, 1 - LEVEL / 2):
        return bootstrap.estimate_means(sums, LEVEL, weights)
    return bootstrap.studentized_bootstrap(sums, weights, LEVEL)


def misses(found: bootstrap.Estimate) -> bool:
    return not found.low <= 0 <= found.high


def measured_noise(
    deviation: float, rows: int, rng: np.random.Generator, seeds: int = 1
) -> SeedNoise:
    """Return the noise that rows with SEEDS seeds show in the difference of two rows' means."""
    freedom = rows * (SEEDS - 1)
    return SeedNoise(2 * deviation**2 * float(rng.chisquare(freedom)) / freedom / seeds, freedom)


def simulate(
    intervals: int, deviation: float, changes: list[Losses], rng: np.random.Generator
) -> dict[str, str]:
    """Return the share of intervals that miss, by their kind."""
    assumed = metrics.find("perplexity").seed_noise
    missed: dict[str, list[bool]] = {}
    for i in range(intervals):
        rows, tokens = changes[i % len(changes)]
        columns = rng.integers(len(tokens), size=len(tokens))
        weights = tokens[columns]
        change = rows[rng.integers(len(rows)), columns] * rng.choice((-1, 1))
        moved = change + np.sqrt(2) * deviation * rng.standard_normal((SEEDS, 1)) * weights
        alone = estimate(moved[:1], weights)
        found = {
            "one seed, before": (alone, SeedNoise(0.0)),
            "one seed, noise of five rows": (alone, measured_noise(deviation, SEEDED_ROWS, rng)),
            "one seed, noise of one row": (alone, measured_noise(deviation, 1, rng)),
            "one seed, noise assumed": (alone, SeedNoise(2 * assumed**2)),
        }
        for seeds, name in ((2, "two seeds"), (SEEDS, "three seeds")):
            mean = estimate(moved[:seeds], weights)
            noise = measured_noise(deviation, SEEDED_ROWS, rng, seeds)
            found[f"{name}, before"] = mean, SeedNoise(0.0)
            found[f"{name}, noise of five rows"] = mean, noise
        for kind, (one, noise) in found.items():
            missed.setdefault(kind, []).append(misses(add_seed_noise(one, noise, LEVEL)))
    return {kind: share(np.array(of)) for kind, of in missed.items()}


def main(intervals: int = 2000) -> None:
    rng = np.random.default_rng(0)
    changes = [real_changes(real_losses(ROOT / "results" / folder)) for folder in FOLDERS]
    by_deviation = {d: simulate(intervals, d, changes, rng) for d in DEVIATIONS}
    figures: Figures = {"intervals": intervals, "claimed share that misses": LEVEL}
    for kind in by_deviation[DEVIATIONS[0]]:
        figures[kind] = {f"{100 * d:g}% between seeds": of[kind] for d, of in by_deviation.items()}
    finish("intervals", figures)


if __name__ == "__main__":
    start(main)
