"""Share of 95% intervals that miss: against the rest of the same text, and simulated.

python benchmarks/intervals.py [--intervals 2000]

Against the rest: every row with 120 windows has an interval of its ratio to the dense model from
some of its windows. It holds the ratio of the other windows, or not. The variance between articles
is learned from the other rows. The rest is a sample, too, and all rows share one text, so the
shares of one choice of windows vary more than those of as many texts.

Windows: the articles of a text are drawn from those of SmolLM2's rows, and its first windows are
measured. The change of two rows is real, without its mean.

Seeds: two rows are equal, so the true ratio of their perplexities is 1. The losses by article are
real: the difference of two perplexity rows of results/smollm2 or results/tiny-methods
that are within 25% of each other, without its mean, with other articles drawn each time. Each seed
moves each row by a normal deviate of the given standard deviation. Before: no noise between seeds
was added. After: it is added. It is measured on five other rows with three seeds each, or on one
such row, or published (bench/assets/seed_noise.json).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from harness import ROOT, Figures, finish, start
from scipy.special import stdtrit
from scipy.stats import binomtest

from bench.comparing.article_variance import MIN_ARTICLES
from bench.comparing.result_arguments import read
from bench.comparing.seed_noise_table import ONE_SHOT, SeedNoiseTable
from bench.results import metrics
from bench.stats import articles, bootstrap
from bench.stats.seed_noise import SeedNoise, add_seed_noise

FOLDERS = ("smollm2", "tiny-methods")
SIMILAR = 0.25
"""Largest difference of ln perplexity of two rows whose losses are compared."""
LEVEL = 0.05
DEVIATIONS = (0.003, 0.01, 0.03, 0.1)
"""Standard deviations of ln perplexity between seeds of a row."""
SEEDED_ROWS, SEEDS = 5, 3
LARGE, LARGE_MODEL = 120, "smollm2-135m-instruct-q4"
"""Windows of the rows that intervals from some of their windows are checked against."""
WINDOWS = (3, 8, 20, 40, 60, 120)
"""Numbers of windows that published rows have, or smaller."""

Losses = tuple[np.ndarray, np.ndarray]
"""Rows of losses by article, [rows, articles], and the tokens of each article."""


def real_losses(folder: Path) -> Losses:
    """Return the summed loss of each article in each perplexity row of a folder."""
    side = read(folder)
    rows: list[np.ndarray] = []
    weights = np.empty(0)
    for record in side.records:
        if record.identity.measure == "perplexity" and record.status == "ok":
            items = side.items(record)
            names, index = np.unique(items.clusters.astype(str), return_inverse=True)
            rows.append(np.bincount(index, items.columns["value"], len(names)))
            weights = np.bincount(index, items.weights, len(names)).astype(float)
    return np.stack(rows), weights


def real_changes(losses: Losses) -> Losses:
    """Return the difference of every two similar rows without its mean: [pairs, articles]."""
    rows, weights = losses
    changes = np.stack([a - b for a, b in itertools.combinations(rows, 2)])
    means = changes.sum(1, keepdims=True) / weights.sum()
    # A pair without noise is one artifact that was measured twice.
    kept = (np.abs(means[:, 0]) <= SIMILAR) & (np.abs(changes - means * weights).max(1) > 1e-6)
    return (changes - means * weights)[kept], weights


class Rows(NamedTuple):
    """Rows of one model on one text."""

    losses: np.ndarray
    """Sums of the windows, [rows, windows]. The first row is the dense model."""
    weights: np.ndarray
    clusters: np.ndarray


def read_rows(model: str, limit: int | None, folders: Iterable[Path]) -> Rows:
    """Return a model's rows with this limit of windows, one record for each identity."""
    rows: list[np.ndarray] = []
    known = set()
    weights = clusters = np.empty(0)
    for folder in folders:
        side = read(folder)
        for record in side.records:
            identity = record.identity
            fits = (identity.model, identity.protocol.limit) == (model, limit)
            if not fits or identity.measure != "perplexity" or identity.key() in known:
                continue
            known.add(identity.key())
            items = side.items(record)
            order = np.argsort(items.ids.astype(int))
            row = items.columns["value"][order]
            weights, clusters = items.weights[order], items.clusters[order].astype(str)
            if identity.method == "dense" and identity.quantizer == "none":
                rows.insert(0, row)
            else:
                rows.append(row)
    return Rows(np.stack(rows), weights, clusters)


def estimate_windows(
    change: np.ndarray,
    weights: np.ndarray,
    clusters: np.ndarray,
    learned: articles.ArticleVariance | None,
) -> bootstrap.Estimate:
    """Estimate as bench/comparing/paired_estimate.py does. change: sums of windows."""
    names, index = np.unique(clusters, return_inverse=True)
    if len(names) < MIN_ARTICLES:
        assert learned is not None
        return articles.estimate_few_articles(change[None], weights, clusters, learned, LEVEL)
    sums = np.bincount(index, change, len(names)).astype(float)
    tokens = np.bincount(index, weights).astype(float)
    return bootstrap.studentized_bootstrap(sums[None], tokens, LEVEL)


def against_the_rest(large: Rows) -> dict[str, str]:
    """Return how many intervals hold the ratio of the windows that they do not use."""
    every = np.arange(LARGE)
    choices = {
        "the first 20": every[:20],
        "20 spread": every[:20] * LARGE // 20,
        "the first 60": every[:60],
        "60 spread": every[:60] * LARGE // 60,
    }
    held: dict[str, int] = dict.fromkeys(("the first 20, windows as independent", *choices), 0)
    count = len(large.losses) - 1
    for k in range(1, count + 1):
        learned = articles.learn(np.delete(large.losses, k, axis=0), large.weights, large.clusters)
        change = large.losses[k] - large.losses[0]
        for name, chosen in choices.items():
            rest = np.setdiff1d(every, chosen)
            truth = change[rest].sum() / large.weights[rest].sum()
            some = (change[chosen], large.weights[chosen])
            found = estimate_windows(*some, large.clusters[chosen], learned)
            held[name] += found.low <= truth <= found.high
            if name == "the first 20":
                alone = bootstrap.studentized_bootstrap(some[0][None], some[1], LEVEL)
                held[f"{name}, windows as independent"] += alone.low <= truth <= alone.high
    return {name: f"{of} of {count} ({100 * of / count:.0f}%)" for name, of in held.items()}


def everywhere(large: Rows) -> dict[str, str]:
    """Return the share of intervals from 20 and 60 windows in a row, wherever they begin, that hold
    the ratio of the other windows, and the least share of one place."""
    every, out = np.arange(LARGE), {}
    learned = articles.learn(large.losses, large.weights, large.clusters)
    changes = large.losses[1:] - large.losses[0]
    for count in (20, 60):
        shares = []
        for first in range(0, LARGE - count + 1, 4):
            chosen = every[first : first + count]
            rest = np.setdiff1d(every, chosen)
            some = (large.weights[chosen], large.clusters[chosen])
            truths = changes[:, rest].sum(1) / large.weights[rest].sum()
            held = []
            for change, truth in zip(changes, truths, strict=True):
                found = estimate_windows(change[chosen], *some, learned)
                held.append(found.low <= truth <= found.high)
            shares.append(np.mean(held))
        out[f"{count} in a row"] = f"{np.mean(shares):.3f}, at least {np.min(shares):.3f}"
    return out


def simulate_windows(intervals: int, large: Rows, rng: np.random.Generator) -> dict[str, str]:
    """Return the share of intervals that miss, by the number of windows."""
    learned = articles.learn(large.losses, large.weights, large.clusters)
    places = [np.flatnonzero(large.clusters == name) for name in np.unique(large.clusters)]
    out = {}
    for count in WINDOWS:
        missed = []
        for _ in range(intervals):
            a, b = rng.choice(len(large.losses), 2, replace=False)
            change = large.losses[b] - large.losses[a]
            change = change - large.weights * change.sum() / large.weights.sum()
            # A text of drawn articles, from its front, as long as it must be.
            drawn = rng.integers(len(places), size=count)
            text = np.concatenate([places[k] for k in drawn])[:count]
            clusters = np.repeat(np.arange(count), [len(places[k]) for k in drawn])[:count]
            missed.append(
                misses(estimate_windows(change[text], large.weights[text], clusters, learned))
            )
        out[f"{count} windows"] = share(np.array(missed))
    return out


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
    published = SeedNoiseTable([]).of("", ONE_SHOT, metrics.find("perplexity")).noise
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
            "one seed, noise published": (
                alone,
                SeedNoise(2 * published.variance, published.freedom),
            ),
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
    boards = sorted(path.parent for path in (ROOT / "results").glob("*/records"))
    large = read_rows(LARGE_MODEL, LARGE, boards)
    figures: Figures = {
        "intervals": intervals,
        "claimed share that misses": LEVEL,
        "holds the rest": against_the_rest(large),
        "holds the rest, wherever it begins": everywhere(large),
        "share that misses": simulate_windows(intervals, large, rng),
    }
    for kind in by_deviation[DEVIATIONS[0]]:
        figures[kind] = {f"{100 * d:g}% between seeds": of[kind] for d, of in by_deviation.items()}
    finish("intervals", figures)


if __name__ == "__main__":
    start(main)
