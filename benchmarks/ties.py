"""Share of tables whose ranks order equal rows, or whose best row does not tie with the first one.

python benchmarks/ties.py [--tables 1000]

A table has five groups of four equal rows, and groups are far apart. The losses by article are
real: rows of results/smollm2 or results/tiny-methods without their means, with other
articles drawn for each table. Each seed moves each row by a normal deviate of the given standard
deviation. The noise between seeds is measured on five other rows with three seeds each.

Every pair of two groups counts as found, which is the hardest case for Holm: only the 30 pairs of
equal rows are left. Before: Benjamini and Hochberg's p over all 190 pairs, without noise between
seeds. Power: share of pairs of two groups that are found if their perplexities differ by the given
ratio, at the level of the last of 190 pairs; with the best: at that of 19 other rows.
"""

from __future__ import annotations

import itertools

import numpy as np
from harness import ROOT, Figures, finish, start
from intervals import DEVIATIONS, FOLDERS, SEEDS, Losses, measured_noise, real_losses, share
from intervals import SEEDED_ROWS as NOISE_ROWS
from scipy.stats import false_discovery_control

from bench.reporting.pairwise import ALPHA
from bench.stats import bootstrap, multiple_tests
from bench.stats.seed_noise import SeedNoise, add_seed_noise

GROUPS, EQUAL = 5, 4
ROWS = GROUPS * EQUAL
PAIRS = ROWS * (ROWS - 1) // 2
SIMILAR = 0.5
"""Largest difference of ln perplexity from the median row, of rows that a table takes."""


def real_rows(losses: Losses) -> Losses:
    """Return the losses of similar rows, each without the mean of its row: [rows, articles]."""
    rows, tokens = losses
    means = rows.sum(1) / tokens.sum()
    near = np.abs(means - np.median(means)) <= SIMILAR
    return (rows - means[:, None] * tokens)[near], tokens


def p_of(sums: np.ndarray, weights: np.ndarray, noise: SeedNoise) -> float:
    """Return a pair's p as a leaderboard does.

    The bootstrap can only raise Student's p, so it is left out if that is over ALPHA.
    """
    found = bootstrap.estimate_means(sums, ALPHA, weights)
    if found.p < ALPHA:
        found = bootstrap.studentized_bootstrap(sums, weights, ALPHA)
    return add_seed_noise(found, SeedNoise(noise.variance / len(sums), noise.freedom), ALPHA).p


def equal_pairs(
    deviation: float, seeds: int, rows: Losses, rng: np.random.Generator
) -> tuple[list[float], list[float], bool]:
    """Return the p of each pair of equal rows with the noise between seeds, and without it.

    The third value is whether the first row of the first group, which no row beats, differs from
    one that looks better.
    """
    losses, tokens = rows
    columns = rng.integers(len(tokens), size=len(tokens))
    weights = tokens[columns]
    noise = measured_noise(deviation, NOISE_ROWS, rng)
    new, old, left_out = [], [], False
    for group in range(GROUPS):
        drawn = losses[rng.choice(len(losses), EQUAL, replace=False)][:, columns]
        moved = drawn[:, None] + deviation * rng.standard_normal((EQUAL, seeds, 1)) * weights
        for i, j in itertools.combinations(range(EQUAL), 2):
            sums = moved[i] - moved[j]
            new.append(p_of(sums, weights, noise))
            old.append(p_of(sums, weights, SeedNoise(0.0)))
            if group == i == 0 and sums.sum() > 0:
                left_out |= multiple_tests.differs(new[-1], ALPHA / (ROWS - 1))
    return new, old, left_out


def is_broken(p: list[float]) -> tuple[bool, bool]:
    """Return whether a true tie is broken, by Holm and by Benjamini and Hochberg."""
    every = [*p, *[0.0] * (PAIRS - len(p))]
    holm = [multiple_tests.differs(one, ALPHA) for one in multiple_tests.holm(every)[: len(p)]]
    return any(holm), bool((false_discovery_control(every)[: len(p)] < ALPHA).any())


def power(
    ratio: float, deviation: float, seeds: int, rows: Losses, rng: np.random.Generator, pairs: int
) -> tuple[str, str]:
    """Return the shares of pairs with p under ALPHA / PAIRS and under ALPHA / (ROWS - 1)."""
    losses, tokens = rows
    found = np.ones(pairs)
    for i in range(pairs):
        columns = rng.integers(len(tokens), size=len(tokens))
        weights = tokens[columns]
        a, b = losses[rng.choice(len(losses), 2, replace=False)][:, columns]
        draws = np.sqrt(2) * deviation * rng.standard_normal((seeds, 1))
        moved = a - b + (np.log(ratio) + draws) * weights
        if bootstrap.estimate_means(moved, ALPHA, weights).p < ALPHA / (ROWS - 1):
            found[i] = p_of(moved, weights, measured_noise(deviation, NOISE_ROWS, rng))
    return share(found < ALPHA / PAIRS), share(found < ALPHA / (ROWS - 1))


def main(tables: int = 1000) -> None:
    rng = np.random.default_rng(0)
    sources = [real_rows(real_losses(ROOT / "results" / folder)) for folder in FOLDERS]
    figures: Figures = {"tables": tables, "claimed share of tables that break a tie": ALPHA}
    for seeds, label in ((1, "one seed"), (SEEDS, "three seeds")):
        for deviation in DEVIATIONS:
            broken = np.zeros((tables, 3), bool)
            for i in range(tables):
                new, old, left_out = equal_pairs(deviation, seeds, sources[i % len(sources)], rng)
                broken[i] = is_broken(new)[0], is_broken(old)[1], left_out
            key = f"{100 * deviation:g}% between seeds"
            figures.setdefault(f"ties broken, {label}, before", {})[key] = share(broken[:, 1])
            figures.setdefault(f"ties broken, {label}", {})[key] = share(broken[:, 0])
            figures.setdefault(f"best row left out, {label}", {})[key] = share(broken[:, 2])
        for ratio in (1.05, 1.2):
            key = f"power, ratio {ratio:g}, 0.5% between seeds"
            of_ranks, with_best = power(ratio, 0.005, seeds, sources[-1], rng, tables)
            figures.setdefault(key, {})[label] = of_ranks
            figures.setdefault(f"{key}, with the best", {})[label] = with_best
    finish("ties", figures)


if __name__ == "__main__":
    start(main)
