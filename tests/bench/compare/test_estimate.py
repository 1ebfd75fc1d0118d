"""Paired perplexity ratios: what they are, and whether their intervals cover."""

import numpy as np
import pandas as pd
import pytest

from bench.compare import estimate
from methods.errors import UserError


def frame(values, clusters, weight=10.0):
    return pd.DataFrame(
        {
            "item_id": [str(i) for i in range(len(values))],
            "cluster_id": [str(c) for c in clusters],
            "value": np.asarray(values, dtype=float),
            "weight": weight,
        }
    )


def simulate(rng, effect=0.0, articles=30, windows=4, seeds=3, article_sd=1.0, seed_sd=0.0):
    """NLL sums of two methods on the same windows; b's are a's plus an effect that varies between articles."""
    clusters = np.repeat(np.arange(articles), windows)
    a, b = {}, {}
    own = rng.normal(0, article_sd, articles)[clusters]
    base = rng.normal(30, 5, articles * windows)
    for seed in range(seeds):
        shift = rng.normal(0, seed_sd)
        b[seed] = frame(base, clusters)
        a[seed] = frame(base + 10 * effect + own + shift + rng.normal(0, 1, len(base)), clusters)
    return a, b


def test_value_is_the_ratio_of_perplexities():
    a, b = simulate(np.random.default_rng(0), effect=0.2)

    got = estimate.perplexity_ratio(a, b)

    mean = [np.mean([x.value.sum() / x.weight.sum() for x in m.values()]) for m in (a, b)]
    assert got.value == pytest.approx(np.exp(mean[0] - mean[1]))
    assert got.low < got.value < got.high
    assert (got.seeds, got.clusters) == (3, 30)


def test_turned_round_it_is_the_inverse():
    a, b = simulate(np.random.default_rng(1), effect=0.1)
    one, other = estimate.perplexity_ratio(a, b), estimate.perplexity_ratio(b, a)

    assert one.value == pytest.approx(1 / other.value)
    assert one.low == pytest.approx(1 / other.high, rel=2e-3)


def test_a_row_without_seeds_meets_every_seed():
    a, b = simulate(np.random.default_rng(2))

    assert estimate.perplexity_ratio(a, {None: b[0]}) == estimate.perplexity_ratio(a, b)


def test_a_row_against_itself_is_one():
    a, _ = simulate(np.random.default_rng(3))

    assert estimate.perplexity_ratio(a, a)[:3] == (1.0, 1.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(("articles", "seed_sd"), [(13, 0.0), (30, 0.0), (13, 0.3)])
def test_interval_covers(articles, seed_sd):
    """95% intervals hold the true effect in about 95 of 100 samples, never in less than 90."""
    rng = np.random.default_rng(4)
    inside = 0
    for _ in range(300):
        a, b = simulate(rng, effect=0.05, articles=articles, seed_sd=seed_sd, seeds=5)
        got = estimate.perplexity_ratio(a, b)
        inside += got.low <= np.exp(0.05) <= got.high
    assert inside / 300 > 0.9


def test_other_windows_are_not_paired():
    a, b = simulate(np.random.default_rng(5))
    b = {s: x.iloc[1:] for s, x in b.items()}

    with pytest.raises(UserError, match="different windows"):
        estimate.perplexity_ratio(a, b)


def test_no_seed_in_common():
    a, b = simulate(np.random.default_rng(6))

    with pytest.raises(UserError, match="no common seed"):
        estimate.perplexity_ratio({7: a[0]}, {8: b[0]})
