"""Paired tests against their oracles: definitions written naively, and other people's
implementations."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import xlogy
from scipy.stats import binomtest, norm, ttest_1samp
from scipy.stats import t as student
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests

from bench.stats import bootstrap, mcnemar, multiple_tests, seed_noise


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (7, 7), (12, 3), (3, 12), (400, 350)])
def test_mcnemar_is_statsmodels_and_a_binomial_test(lost, gained):
    got = mcnemar.mcnemar_p(lost, gained)
    theirs = their_mcnemar([[50, lost], [gained, 60]], exact=True).pvalue
    assert got == pytest.approx(theirs, abs=1e-12)
    if lost + gained:
        assert got == pytest.approx(binomtest(lost, lost + gained).pvalue)


def naive_score(lost, gained, n, delta):
    """z of delta = p_gained - p_lost, its nuisance parameter p_lost found by maximizing the
    likelihood."""

    def minus_log_likelihood(q):
        p = q + delta
        return -(xlogy(lost, q) + xlogy(gained, p) + xlogy(n - lost - gained, 1 - p - q))

    how = {"method": "bounded", "options": {"xatol": 1e-12}}
    bounds = (max(0.0, -delta), (1 - delta) / 2)
    q = minimize_scalar(minus_log_likelihood, bounds=bounds, **how).x
    return (gained - lost - n * delta) / np.sqrt(n * (2 * q + delta * (1 - delta)))


@pytest.mark.parametrize(
    ("lost", "gained", "n"), [(9, 4, 60), (4, 9, 60), (0, 5, 40), (1, 1, 30), (60, 20, 500)]
)
def test_tango_inverts_the_score_test(lost, gained, n):
    low, high = mcnemar.tango_interval(lost, gained, n, 0.05)
    z = norm.ppf(0.975)
    assert naive_score(lost, gained, n, low) == pytest.approx(z, abs=1e-4)
    assert naive_score(lost, gained, n, high) == pytest.approx(-z, abs=1e-4)
    grid = np.linspace(-0.4, 0.4, 161)
    accepted = [d for d in grid if abs(naive_score(lost, gained, n, d)) <= z]
    assert all((low <= d <= high) == (d in accepted) for d in grid)


def test_tango_without_a_flip_is_no_point():
    low, high = mcnemar.tango_interval(0, 0, 100, 0.05)
    assert low == pytest.approx(-high)
    assert high == pytest.approx(norm.ppf(0.975) ** 2 / (100 + norm.ppf(0.975) ** 2), rel=1e-6)


@pytest.mark.parametrize("count", [1, 2, 20])
def test_adjusted_p_values_are_those_of_statsmodels(count):
    p = np.random.default_rng(count).uniform(0, 0.3, count) ** 2
    assert multiple_tests.holm(list(p)) == pytest.approx(multipletests(p, method="holm")[1])
    assert multiple_tests.holm([]) == []


def test_ranks_are_ranges_of_what_was_shown():
    shown = {("a", "c"), ("a", "d"), ("b", "d")}
    got = multiple_tests.tie_groups(["a", "b", "c", "d"], shown)
    assert got == [("a", 1, 2), ("b", 1, 3), ("c", 2, 4), ("d", 3, 4)]


def naive_t(differences, weights):
    """The estimator over its standard error, of one draw, as it is written in books."""
    mean = differences.mean(0)
    value = mean.sum() / weights.sum()
    residuals = mean - value * weights
    n = len(weights)
    variance = n / (n - 1) * (residuals**2).sum() / weights.sum() ** 2
    if len(differences) > 1:
        each = differences.sum(1) / weights.sum()
        variance += each.var(ddof=1) / len(each)
    return value / np.sqrt(variance)


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_draw_of_the_bootstrap_is_the_estimator_on_that_draw(seeds):
    rng = np.random.default_rng(0)
    differences, weights = rng.normal(0.3, 1, (seeds, 9)), rng.uniform(1, 3, 9)
    columns, rows = (rng.multinomial(n, [1 / n] * n, 5) for n in (9, seeds))
    got = bootstrap._t(differences, weights, columns.astype(float), rows.astype(float), 1.0)
    for t, c, r in zip(got, columns, rows, strict=True):
        drawn, repeated = np.repeat(np.arange(9), c), np.repeat(np.arange(seeds), r)
        naive = naive_t(differences[repeated][:, drawn], weights[drawn])
        assert t == pytest.approx(naive) or abs(naive) > 1e6


def test_a_seed_that_changed_nothing_is_no_end_of_an_interval():
    """A draw of this seed alone has no variance but rounding."""
    rng = np.random.default_rng(0)
    weights = rng.uniform(1, 3, 13)
    changed = -2e-4 * weights + rng.normal(0, 1e-4, (2, 13))
    got = bootstrap.studentized_bootstrap(np.stack([0 * weights, *changed]), weights, 0.05)
    assert got.high - got.low < 40 * got.stderr


def test_p_and_interval_agree():
    """An interval excludes 0 exactly where p is under its level."""
    rng = np.random.default_rng(1)
    for _ in range(60):
        differences, weights = rng.normal(0.35, 1, (1, 12)), rng.uniform(1, 3, 12)
        got = bootstrap.studentized_bootstrap(differences, weights, 0.05)
        assert (got.low > 0 or got.high < 0) == (got.p < 0.05)


def test_as_many_draws_as_the_level_asks_for(monkeypatch):
    asked = []

    def draws(differences, weights, count, stderr):
        asked.append(count)
        return np.linspace(-3, 3, count)

    monkeypatch.setattr(bootstrap, "_draws", draws)
    rng = np.random.default_rng(2)
    for level in (0.05, 0.0025, 1e-9):
        bootstrap.studentized_bootstrap(rng.normal(0, 1, (1, 12)), np.ones(12), level)

    assert asked == [4000, 80000, bootstrap.MAX_DRAWS]


@pytest.mark.parametrize(("clusters", "draws"), [(500, 4000), (3000, 1000)])
def test_many_articles_have_fewer_draws_and_students_interval(monkeypatch, clusters, draws):
    """100,000 draws of 2,000 articles took 3 GB. The interval of so many articles is Student's, but
    for the draws."""
    assert bootstrap.MAX_COUNTS <= 20_000_000
    monkeypatch.setattr(bootstrap, "MAX_COUNTS", 2_000_000)
    asked, draw = [], bootstrap._draws
    monkeypatch.setattr(
        bootstrap, "_draws", lambda c, w, count, se: asked.append(count) or draw(c, w, count, se)
    )
    differences = np.random.default_rng(0).normal(0, 1, (1, clusters))
    got = bootstrap.studentized_bootstrap(differences, np.ones(clusters), 1e-4)
    plain = bootstrap.estimate_means(differences, 1e-4)
    assert asked == [draws]
    assert got.high - got.low == pytest.approx(plain.high - plain.low, rel=0.1)


def test_beyond_the_most_draws_tails_are_no_lighter_than_students():
    rng = np.random.default_rng(3)
    differences = rng.normal(0.2, 1, (1, 15))
    plain = ttest_1samp(differences[0], 0)
    got = bootstrap.studentized_bootstrap(differences, np.ones(15), 1e-6)
    bounds = plain.confidence_interval(1 - 1e-6)
    assert got.low <= bounds.low + 1e-9 and got.high >= bounds.high - 1e-9
    far = bootstrap.studentized_bootstrap(differences + 20, np.ones(15), 1e-6)
    assert ttest_1samp(differences[0] + 20, 0).pvalue <= far.p < 1e-6


def test_means_are_students_where_there_is_one_seed():
    values = np.random.default_rng(4).normal(0.1, 1, 50)
    theirs = ttest_1samp(values, 0)
    got = bootstrap.estimate_means(values[None], 0.05)
    assert got.p == pytest.approx(theirs.pvalue)
    assert (got.low, got.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)))


def test_timings_are_students_on_ln_ratios():
    rng = np.random.default_rng(5)
    before, after = rng.lognormal(0, 0.1, 12), rng.lognormal(0.05, 0.1, 12)
    theirs = ttest_1samp(np.log(after) - np.log(before), 0)
    got = bootstrap.estimate_blocks(before, after, 0.01)
    assert (got.p, got.low) == pytest.approx((theirs.pvalue, theirs.confidence_interval(0.99).low))


def test_seeds_that_disagree_widen_the_interval():
    rng = np.random.default_rng(6)
    base = rng.normal(0, 1, 20)
    agree = bootstrap.studentized_bootstrap(np.stack([base] * 4), np.ones(20), 0.05)
    apart = np.stack([base + s for s in (-1, 0, 0.5, 0.5)])
    differ = bootstrap.studentized_bootstrap(apart, np.ones(20), 0.05)
    none = bootstrap.studentized_bootstrap(np.zeros((2, 9)), np.ones(9), 0.05)
    assert (none.value, none.low, none.high, none.p) == (0, 0, 0, 1)
    assert differ.high - differ.low > 1.8 * (agree.high - agree.low)
    assert agree.seed_share < 0.01 and differ.seed_share > 0.5


@pytest.mark.parametrize("freedom", [np.inf, 10])
def test_noise_between_seeds_adds_to_an_estimate_from_one_seed(freedom):
    """With a t interval, it is that of the sum of the variances, and squares of the arms add up."""
    flips = np.random.default_rng(3).choice([-1.0, 0.0, 1.0], 400, p=[0.06, 0.9, 0.04])[None]
    alone = bootstrap.estimate_means(flips, 0.05, margin=-0.01)
    wide = seed_noise.add_seed_noise(alone, seed_noise.SeedNoise(0.02**2, freedom), 0.05, -0.01)
    stderr = np.hypot(alone.stderr, 0.02)
    total = stderr**4 / (alone.stderr**4 / alone.freedom + 0.02**4 / freedom)

    assert (wide.value, wide.stderr, wide.alone) == (alone.value, pytest.approx(stderr), alone)
    arm = np.hypot(alone.high - alone.value, student.ppf(0.975, freedom) * 0.02)
    assert (wide.low, wide.high) == pytest.approx((alone.value - arm, alone.value + arm))
    assert wide.p == pytest.approx(2 * student.sf(abs(alone.value) / stderr, total))
    assert wide.p_margin == pytest.approx(2 * student.sf(abs(alone.value + 0.01) / stderr, total))
    assert seed_noise.add_seed_noise(alone, seed_noise.SeedNoise(0.0), 0.05) == alone


def test_noise_between_seeds_never_narrows_an_interval():
    """Two sources of noise: few articles with a bootstrap's long tail, and much noise with many
    degrees of freedom."""
    skewed = np.random.default_rng(7).lognormal(0, 1.5, (1, 9))
    alone = bootstrap.studentized_bootstrap(skewed, np.ones(9), 0.01)
    for deviation in np.geomspace(1e-3, 1e3, 13):
        wide = seed_noise.add_seed_noise(alone, seed_noise.SeedNoise(deviation**2), 0.01)
        assert wide.low <= alone.low and wide.high >= alone.high and wide.p >= alone.p


def test_pooled_noise_weighs_rows_by_their_degrees_of_freedom():
    got = seed_noise.pool([seed_noise.SeedNoise(4.0, 4), seed_noise.SeedNoise(1.0, 2)])
    assert got == seed_noise.SeedNoise(3.0, 6)


def test_a_margin_moves_the_null():
    """p for a change of the margin is p for no change, of numbers from which the margin was
    taken."""
    rng = np.random.default_rng(2)
    weights = rng.integers(1, 9, 12).astype(float)
    sums = weights * rng.normal(0.02, 0.03, 12)[None]
    questions = rng.normal(0.02, 0.3, (2, 50))
    at = bootstrap.studentized_bootstrap(sums, weights, 0.05, margin=0.01)
    moved = bootstrap.studentized_bootstrap(sums - 0.01 * weights, weights, 0.05)
    assert at.p_margin == pytest.approx(moved.p)
    at = bootstrap.estimate_means(questions, 0.05, margin=0.01)
    assert at.p_margin == pytest.approx(bootstrap.estimate_means(questions - 0.01, 0.05).p)


def test_the_margin_of_accuracies_is_tangos():
    before = np.r_[np.ones(30), np.zeros(30)]
    after = np.r_[np.zeros(9), np.ones(21), np.ones(4), np.zeros(26)]
    got = mcnemar.estimate_flips(before, after, 0.05, margin=-0.02)
    assert got.p_margin == pytest.approx(2 * norm.sf(abs(naive_score(9, 4, 60, -0.02))), abs=1e-4)
    assert mcnemar.estimate_flips(before, after, 0.05).p_margin == got.p


@pytest.mark.parametrize(("after", "p"), [([[0, 0], [0, 0]], 0.5), ([[0, 1], [1, 0]], 1.0)])
def test_two_questions_that_change_alike_are_no_certainty(after, p):
    got = mcnemar.estimate_flips_over_seeds(np.ones((2, 2)), np.array(after), 0.05)
    assert got.p == p and got.low <= got.value < got.high


@pytest.mark.parametrize(("seeds", "seed_sd"), [(1, 0.0), (5, 0.3)])
def test_interval_covers(seeds, seed_sd):
    """95% intervals on simulated windows of uneven articles hold the truth in no less than 90 of
    100 samples."""
    rng = np.random.default_rng(8)
    inside = 0
    for _ in range(200):
        weights = rng.integers(10, 200, 13) * 127.0
        truth = 0.05
        losses = truth + rng.normal(0, 0.3, 13) + rng.normal(0, seed_sd, (seeds, 1))
        sums = weights * losses + rng.normal(0, 5, (seeds, 13))
        got = bootstrap.studentized_bootstrap(sums, weights, 0.05)
        inside += got.low <= truth <= got.high
    assert inside / 200 > 0.9


def test_n_that_would_decide():
    """Of `shared`, the seeds alone may leave too much, as the questions may."""
    estimate = bootstrap.Estimate(0.004, 0.002, -0.001, 0.009, 0.1, 100, "questions")
    shared = replace(estimate, seed_share=0.4, seeds=2)

    for one, near, arm, n in (
        (estimate, 0.004, 0.005, 70),  # 100 (0.005 / 0.006)^2
        (estimate, 0.02, 0.04, 1600),  # 100 (0.04 / 0.01)^2
        (estimate, 0.01, 0.04, None),
        (shared, 0.004, 0.005, 58),  # 100 * 0.6 / ((0.006 / 0.005)^2 - 0.4)
        (shared, 0.019, 0.01, 147),  # 100 * 0.6 / (0.9^2 - 0.4)
        (shared, 0.015, 0.01, None),
    ):
        assert one.required_n(near, arm, 0.01) == (n and (n, "questions"))


def test_runs_of_timings_are_compared_by_their_means():
    """Their blocks are not independent, so that two runs have one degree of freedom."""
    rng = np.random.default_rng(3)
    logs = rng.normal(0, 0.01, (2, 3, 12)) + rng.normal(0, 0.05, (2, 3, 1))
    got = bootstrap.estimate_blocks(*np.exp(logs), 0.05)
    theirs = ttest_1samp((logs[1] - logs[0]).mean(1), 0)
    assert got.p == pytest.approx(theirs.pvalue)
    assert (got.low, got.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert (got.n, got.unit, got.seeds) == (12, "blocks", 3)


def test_an_interval_of_two_seeds_has_the_noise_that_is_known():
    of_seeds = {"seeds": 2, "seed_share": 0.1, "freedom": 20}
    estimate = bootstrap.Estimate(0.1, 0.01, 0.08, 0.12, 0.001, 30, "articles", **of_seeds)
    noise = seed_noise.SeedNoise(0.02**2, 12)
    found = seed_noise.add_seed_noise(estimate, noise, 0.05)
    assert found.low < 0.06 and found.high > 0.14 and found.alone == estimate
    assert seed_noise.add_seed_noise(estimate, seed_noise.SeedNoise(1e-8, 12), 0.05) == estimate
    # That of a pool of these two seeds alone, in the last bits of another processor.
    own = seed_noise.SeedNoise(0.1 * 0.01**2 * (1 + 1e-15), 1)
    assert seed_noise.add_seed_noise(estimate, own, 0.05) == estimate


def test_a_ratio_of_blocks_beyond_floats_is_infinite():
    assert bootstrap.ratio_of_blocks(np.array([[1e-30, 1e30]]), np.ones((1, 2))).high == np.inf
