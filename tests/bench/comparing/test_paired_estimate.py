"""The estimate of a pair of perplexities: what it is, and whether its interval covers."""

import numpy as np
import pytest

from bench.comparing import paired_estimate
from bench.comparing.pairing import MetricPair, pair_seeds
from bench.comparing.result_arguments import read
from bench.comparing.result_set import ResultSet
from bench.results.derive import Items
from bench.results.record import Item, ReadingRow
from bench.stats.seed_noise import SeedNoise
from helpers import fake_records

READING = ReadingRow(metric="perplexity", value=1.0, unit="1", better="lower", stderr=0.1)
WINDOWS = 4
"""Of each article."""
TOKENS = 10.0
"""Of each window."""


def simulate(rng, effect=0.0, articles=30, seeds=3, article_sd=1.0, seed_sd=0.0):
    """NLL sums of two methods, [seeds, windows]; the second's are the first's plus an effect that
    varies between articles."""
    own = np.repeat(rng.normal(0, article_sd, articles), WINDOWS)
    base = rng.normal(30, 5, articles * WINDOWS)
    shifts = [rng.normal(0, seed_sd) + rng.normal(0, 1, len(base)) for _ in range(seeds)]
    return np.tile(base, (seeds, 1)), base + TOKENS * effect + own + np.stack(shifts)


def estimate_change(before, after, windows=None, noise=None):
    """From sums [seeds, windows]. windows: of the second side, if they have other names."""
    scores = {}

    def measured(method, sums, ids):
        articles = np.array([str(i // WINDOWS) for i in range(len(ids))])
        records = [
            fake_records.record(method, seed, readings=[READING]) for seed in range(len(sums))
        ]
        for record, values in zip(records, sums, strict=True):
            weights = np.full(len(ids), TOKENS)
            scores[record.key] = Items(ids, articles, weights, {"value": values})
        return tuple(records)

    ids = np.arange(before.shape[1]).astype(str)
    sides = measured("a", before, ids), measured("b", after, ids if windows is None else windows)
    results = ResultSet("", (), lambda record: scores[record.key])
    pair = MetricPair("", "perplexity", *sides)
    return paired_estimate.estimate_pair(pair, results, results, 0.05, noise)


@pytest.mark.parametrize("deviation", [0.5, 5.0])
def test_an_interval_that_the_noise_between_seeds_makes_endless_says_nothing(deviation):
    """Student's t of one degree of freedom is 12.7, so a noise of 5 nats gives ratios up to
    e^64."""
    before, after = simulate(np.random.default_rng(0), seeds=1)
    got = estimate_change(before, after, noise=SeedNoise(deviation**2, freedom=1))
    assert (got.high == np.inf) == (deviation == 5) and got.alone.high < 1


def test_value_is_the_difference_of_the_means_per_token():
    before, after = simulate(np.random.default_rng(0), effect=0.2)
    got = estimate_change(before, after)
    assert got.value == pytest.approx((after.mean() - before.mean()) / TOKENS)
    assert got.low < got.value < got.high
    assert (got.seeds, got.n, got.unit) == (3, 30, "articles")


def answers(before, after, articles, bits=None):
    """The change of an accuracy: before, after: 0 or 1 for each question; articles: of each; bits:
    of all, on both sides."""
    reading = ReadingRow(metric="acc", value=1.0, unit="1", better="higher", stderr=0.1)
    scores, sides = {}, []
    for side, values in enumerate((before, after)):
        record = fake_records.record("ab"[side], measure="zeroshot", readings=[reading])
        ids, weights = np.arange(len(before)).astype(str), np.ones(len(before))
        columns = {"value": np.array(values, dtype=float)}
        if bits:
            columns["bits"] = 0.5 * bits[side] * weights
        scores[record.key] = Items(ids, np.array(articles).astype(str), weights, columns)
        sides.append((record,))
    results = ResultSet("", (), lambda record: scores[record.key])
    return paired_estimate.estimate_pair(MetricPair("", "acc", *sides), results, results, 0.05)


def test_questions_of_one_article_are_not_independent():
    """Twelve are lost: of one article, which one change can do; or one of each of twelve."""
    articles, right = np.repeat(np.arange(13), 12), np.ones(13 * 12)
    of_one, of_twelve = articles == 3, np.arange(len(right)) % 13 == 0
    one, twelve = (answers(right, right - lost, articles) for lost in (of_one, of_twelve))
    assert one.p > 0.3 and one.low < one.value < 0 < one.high
    assert twelve.p < 0.01 and twelve.high < 0
    for found in (one, twelve):
        assert (found.lost, found.gained, found.n, found.unit) == (12, 0, 156, "questions")


@pytest.mark.parametrize("lost", [1, 2])
def test_few_changed_answers_have_an_interval_that_can_be(lost):
    """A bootstrap over articles has none here: many of its draws hold no change."""
    articles, right = np.repeat(np.arange(13), 12), np.ones(13 * 12)
    after = right.copy()
    after[: 12 * lost : 12] = 0
    found = answers(right, after, articles)
    assert found.lost == lost and -0.1 < found.low < 0 < found.high < 0.1 and found.p > 0.3


@pytest.mark.parametrize("count", [2, 4, 7])
def test_questions_of_few_articles_are_dependent_too(count):
    """McNemar's test alone finds a difference in 13% of pairs of equal models, if seven articles
    have 40 questions each."""
    articles, right = np.repeat(np.arange(count), 12), np.ones(count * 12)
    assert answers(right, np.where(articles == 1, 0, right), articles).p > 0.3


@pytest.mark.parametrize(("other", "is_exact"), [((1, 1), True), ((1, 2), False), (None, False)])
def test_equal_answers_of_other_models_are_no_certainty(other, is_exact):
    """Unless other scores show that the models are equal."""
    found = answers(np.ones(50), np.ones(50), np.arange(50), other)
    assert found.value == 0 and (found.low == found.high == 0) == is_exact
    assert is_exact or -0.08 < found.low < -0.02 < 0.02 < found.high < 0.08


def test_other_windows_are_not_paired():
    before, after = simulate(np.random.default_rng(5))
    with pytest.raises(paired_estimate.NotComparable, match="different items"):
        estimate_change(before, after, windows=np.arange(1, after.shape[1] + 1).astype(str))


@pytest.mark.parametrize(
    ("measure", "unit", "why"),
    [("strangeness", "1", "different items"), ("latency", "s", "different numbers of blocks")],
)
def test_seeds_with_unequal_numbers_of_items_are_not_compared(tmp_path, measure, unit, why):
    for method in ("a", "b"):
        for seed, count in ((0, 12), (1, 16)):
            record = fake_records.record(method, seed, measure=measure)
            items = [Item(str(i), str(i // WINDOWS), 1.0 + i, 1.0) for i in range(count)]
            items[0] = items[0]._replace(value=1.5 if method == "a" else 2.5)
            known = {"value": 1.0, "stderr": 0.1}
            if unit == "s":
                known = {"value": np.median([item.value for item in items])}
            reading = ReadingRow(metric=measure, unit=unit, better="lower", **known)
            fake_records.put(tmp_path, record, items, [reading])
    results = read(tmp_path)
    sides = (tuple(r for r in results.records if r.identity.method == method) for method in "ab")

    with pytest.raises(paired_estimate.NotComparable, match=why):
        paired_estimate.estimate_pair(MetricPair("", measure, *sides), results, results, 0.05)


@pytest.mark.parametrize("swap", [False, True])
def test_a_row_without_seeds_meets_every_seed(swap):
    seedless = fake_records.record("dense", readings=[READING])
    seeds = {seed: fake_records.record("wanda", seed, readings=[READING]) for seed in (0, 1)}
    sides = ({None: seedless}, seeds)
    ((pair,), unpaired) = pair_seeds("", *(sides[::-1] if swap else sides), True)
    assert (pair.after, pair.before)[swap] == tuple(seeds.values())
    assert (pair.before, pair.after)[swap] == (seedless, seedless) and not unpaired
