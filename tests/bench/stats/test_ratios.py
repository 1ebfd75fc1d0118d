"""Ratios of paired means: coverage by simulation, and cases that are known."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_ind_from_stats

from bench.stats.ratios import (
    Change,
    PairedGroup,
    differ_p,
    estimate_change,
    wilson_interval,
)
from bench.stats.seed_noise import SeedNoise


def draw(rng, size, ratio, clusters=1):
    before = rng.gamma(4, 0.25, size)
    shared = np.repeat(rng.normal(0, 0.3, size // clusters), clusters)
    after = before * ratio + (rng.normal(0, 0.2, size) + shared * (clusters > 1)) * before.mean()
    return PairedGroup(before, after[None], np.arange(size) // clusters)


@pytest.mark.parametrize("clusters", [1, 4])
def test_the_interval_covers_the_ratio(clusters):
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(600):
        change = estimate_change([draw(rng, 24, 1.2, clusters), draw(rng, 60, 1.4, clusters)])
        low, high = change.interval(0.05)
        covered += low <= 0.3 <= high
    assert 0.92 <= covered / 600 <= 0.98


@pytest.mark.parametrize("size", [6, 16])
def test_the_same_questions_in_another_group_are_no_new_ones(size):
    """The interval covers the ratio if three of four groups ask the same problems, such as programs
    in three languages."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(600):
        shared, groups = rng.normal(0, 0.3, size), []
        for _ in range(3):
            before = rng.gamma(4, 0.25, size)
            after = before * 1.2 + (shared + rng.normal(0, 0.2, size)) * before.mean()
            groups.append(PairedGroup(before, after[None], np.arange(size), "problems"))
        change = estimate_change([*groups, draw(rng, 40, 1.2)])
        low, high = change.interval(0.05)
        covered += low <= 0.2 <= high
    assert 0.91 <= covered / 600 <= 0.98


def test_equal_scores_are_no_change():
    group = draw(np.random.default_rng(1), 20, 1.0)
    change = estimate_change([group._replace(after=group.before[None])])
    assert change.value == 0 and change.interval(0.05) == (0, 0)
    assert differ_p(change, change) == 1


def test_seeds_that_differ_make_the_interval_wider():
    group = draw(np.random.default_rng(2), 50, 1.0)
    one = estimate_change([group])
    apart = np.concatenate([group.after * 0.8, group.after * 1.2])
    several = estimate_change([group._replace(after=apart)])
    assert several.value == pytest.approx(one.value) and several.stderr > 3 * one.stderr


@pytest.mark.parametrize("change", [{"clusters": np.zeros(10, int)}, {"before": np.zeros(10)}])
def test_what_has_no_interval(change):
    group = draw(np.random.default_rng(3), 10, 1.0)
    assert estimate_change([group._replace(**change)]) is None


def test_differences_are_welchs():
    """Welch's t test of scipy, from means and standard errors."""
    one, other = Change(0.30, 0.05, 19), Change(0.10, 0.08, 11)
    sides = (0.30, 0.05 * 20**0.5, 20), (0.10, 0.08 * 12**0.5, 12)
    expected = ttest_ind_from_stats(*sides[0], *sides[1], equal_var=False).pvalue
    assert differ_p(one, other) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("count", "n"), [(0, 10), (5, 10), (10, 10), (3, 1000), (202, 500), (1838, 1838)]
)
def test_shares_have_wilsons_interval(count, n):
    expected = binomtest(count, n).proportion_ci(0.95, method="wilson")
    assert wilson_interval(count, n, 0.05) == pytest.approx(tuple(expected), abs=1e-12)


def test_the_noise_of_a_draw_makes_the_interval_of_one_seed_wider():
    """It moves all groups together, so their mean does not shrink it."""
    rng = np.random.default_rng(4)
    groups = [draw(rng, 50, 1.0) for _ in range(3)]
    alone = estimate_change(groups)
    noisy = estimate_change(groups, SeedNoise(0.2**2, 6))
    scale = np.mean([1 / group.before.mean() for group in groups])
    assert noisy.stderr == pytest.approx(math.hypot(alone.stderr, 0.2 * scale))
    assert 6 <= noisy.freedom < alone.freedom and noisy.value == alone.value


def test_a_difference_is_not_divided_by_the_value_before():
    """Of two groups with the same rise, one from a twentieth of the other's value."""
    rng = np.random.default_rng(5)
    clusters = np.arange(40)
    small, large = rng.normal(0.1, 0.01, 40), rng.normal(2.0, 0.01, 40)
    rise = rng.normal(0.3, 0.02, 40)
    groups = [PairedGroup(before, (before + rise)[None], clusters) for before in (small, large)]
    one, other = (estimate_change([group], relative=False) for group in groups)
    assert one.value == pytest.approx(other.value) == pytest.approx(rise.mean())
    assert one.stderr == pytest.approx(rise.std(ddof=1) / 40**0.5)
    relative = [estimate_change([group]).value for group in groups]
    assert relative[0] > 10 * relative[1]
