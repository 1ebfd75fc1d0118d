"""Share of gates that say REGRESSION, by the draws of the calibration text and the true loss.

python benchmarks/gate_draws.py [--gates 400]

A gate has three perplexities with the same draws on both sides, and the first one loses. The change
by article is real: the difference of two rows of results/tiny-methods without its mean, with other
articles drawn for each gate. The draws of one side differ by 1.5%, and the differences between two
sides by 0.4%, as in issue 68: draws of 54.2 to 55.9 that lost 1.8, 1.4 and 2.2%.

Unchanged: the code has another digest and its numbers differ by rounding alone. 0%: the code makes
other weights of the same mean quality. Unpaired: the noise between draws of either side is
added, as for draws of different texts. It is measured on five other rows with three draws each.
"""

from __future__ import annotations

import numpy as np
from harness import ROOT, Figures, finish, say, start
from intervals import SEEDED_ROWS, Losses, measured_noise, real_changes, real_losses

from bench.results import metrics
from bench.stats import bootstrap, multiple_tests
from bench.stats.bootstrap import Estimate
from bench.stats.seed_noise import SeedNoise, add_seed_noise

ALPHA, NUMBERS = 0.05, 3
BETWEEN_DRAWS, BETWEEN_DIFFERENCES = 0.015, 0.004
"""Standard deviations of ln perplexity between draws: of one side, and of after minus before."""
ROUNDING = 1e-5
"""Standard deviation of a rounded loss per token."""
MARGIN = float(np.log1p(metrics.find("perplexity").margin or 0.0))
LOSSES = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05)


def changes_of(
    draws: int, loss: float, changes: Losses, articles: int, rng: np.random.Generator
) -> Losses:
    """Return the changes of the articles of one number, [draws, articles], and their tokens."""
    rows, tokens = changes
    columns = rng.integers(len(tokens), size=articles)
    weights = tokens[columns]
    of_draws = BETWEEN_DIFFERENCES * rng.standard_normal((draws, 1))
    return rows[rng.integers(len(rows))][columns] + (np.log1p(loss) + of_draws) * weights, weights


def rounded(draws: int, changes: Losses, articles: int, rng: np.random.Generator) -> Losses:
    """Return changes that are rounding alone: [draws, articles], and the tokens of each article."""
    weights = changes[1][rng.integers(len(changes[1]), size=articles)]
    return ROUNDING * rng.standard_normal((draws, articles)) * weights, weights


def estimate(moved: Losses, noise: SeedNoise) -> Estimate:
    """Estimate as a gate does.

    The bootstrap can only raise Student's p, so it is left out if that is over ALPHA.
    """
    level = multiple_tests.bonferroni(ALPHA, NUMBERS)
    sums, weights = moved
    found = bootstrap.estimate_means(sums, level, weights, margin=MARGIN)
    if found.p_margin < ALPHA:
        found = bootstrap.studentized_bootstrap(sums, weights, level, margin=MARGIN)
    return add_seed_noise(found, noise, level, MARGIN)


def is_regression(estimates: list[Estimate]) -> list[bool]:
    """Return the verdict on each number of a gate."""
    adjusted = multiple_tests.holm([found.p_margin for found in estimates])
    return [
        found.value > MARGIN and multiple_tests.differs(p, ALPHA)
        for found, p in zip(estimates, adjusted, strict=True)
    ]


def alarms(
    gates: int,
    draws: int,
    loss: float | None,
    changes: Losses,
    articles: int,
    rng: np.random.Generator,
    paired: bool,
) -> float:
    """Return the share of gates in which the first number, or any without a loss, is a REGRESSION.

    loss: of the first number. None: no number changes but by rounding.
    """
    count = 0
    for _ in range(gates):
        estimates = []
        for k in range(NUMBERS):
            noise = SeedNoise(0.0)
            if draws == 1 or not paired:
                noise = measured_noise(BETWEEN_DRAWS, SEEDED_ROWS, rng, draws)
            if loss is None:
                moved = rounded(draws, changes, articles, rng)
            else:
                moved = changes_of(draws, 0.0 if k else loss, changes, articles, rng)
            estimates.append(estimate(moved, noise))
        found = is_regression(estimates)
        count += found[0] if loss else any(found)
    return count / gates


def main(gates: int = 400) -> None:
    rng = np.random.default_rng(0)
    changes = real_changes(real_losses(ROOT / "results" / "tiny-methods"))
    figures: Figures = {}
    for articles in (13, 60):
        for draws, paired in ((1, True), (2, True), (3, False), (3, True), (5, True)):
            row = f"{draws}, {articles} articles" + ("" if paired else ", unpaired")
            shares = figures[row] = {}
            for loss in (None, *LOSSES):
                label = "unchanged" if loss is None else f"{100 * loss:g}%"
                found = alarms(gates, draws, loss, changes, articles, rng, paired)
                shares[label] = f"{100 * found:.1f}%"
            say(row, shares)
    finish("gate_draws", figures)


if __name__ == "__main__":
    start(main)
