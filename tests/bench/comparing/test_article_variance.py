"""Intervals from few articles: what they take from larger records of the model, and whether they
cover."""

import math

import numpy as np
import pytest

from bench.comparing import paired_estimate
from bench.comparing.article_variance import MIN_ARTICLES, ArticleVarianceTable
from bench.comparing.pairing import MetricPair
from bench.comparing.result_arguments import read
from bench.reporting import board
from bench.results.record import Item, ReadingRow
from bench.stats import articles
from bench.stats.articles import ArticleVariance
from helpers import fake_records

TOKENS = 127.0


def losses(rng, rows, sizes, ratio):
    """Sums of windows, [rows, windows], whose tokens have variance 1 within an article."""
    clusters = np.repeat(np.arange(len(sizes)), sizes)
    shared = rng.normal(0, ratio**0.5, (rows, len(sizes)))
    noise = rng.normal(0, TOKENS**-0.5, (rows, len(clusters)))
    return TOKENS * (shared[:, clusters] + noise), clusters


def test_the_ratio_is_found_whatever_the_sizes_of_the_articles():
    rng = np.random.default_rng(0)
    sums, clusters = losses(rng, 60, [3, 11, 6, 19, 5, 6, 25, 6, 26, 4, 7, 2], 0.002)
    found = articles.learn(sums, np.full(len(clusters), TOKENS), clusters)
    assert found.ratio == pytest.approx(0.002, rel=0.1)
    assert (found.articles, found.pairs) == (12, 60 * 59 // 2) and 3 < found.freedom < 11


@pytest.mark.parametrize("sizes", [[3, 11, 6], [20], [1, 1, 1, 1, 1, 1, 2]])
def test_an_interval_from_few_articles_covers(sizes):
    """With windows taken as independent, half of these intervals miss."""
    rng = np.random.default_rng(1)
    known = ArticleVariance(0.004, 1e6, 12, 1)
    sums, clusters = losses(rng, 1500, sizes, 0.004)
    weights = np.full(len(clusters), TOKENS)
    held = 0
    for row in sums:
        found = articles.estimate_few_articles(row[None], weights, clusters, known, 0.05)
        held += found.low <= 0 <= found.high
    assert 0.93 < held / len(sums) < 0.97
    assert (found.n, found.unit) == (len(sizes), "articles")


def test_a_ratio_that_is_not_well_known_makes_the_interval_wider():
    sums, clusters = losses(np.random.default_rng(2), 1, [3, 11, 6], 0.004)
    weights = np.full(20, TOKENS)

    def half(freedom):
        known = ArticleVariance(0.004, freedom, 12, 1)
        found = articles.estimate_few_articles(sums, weights, clusters, known, 0.05)
        return found.high - found.low

    assert half(4) > 1.2 * half(1e6)


def write(root, count, methods, **about):
    """Write a row for each method, of windows that differ within their articles, too."""
    for k, method in enumerate(methods):
        sums, clusters = losses(np.random.default_rng(k), 1, [4] * count, 0.004)
        means = sums[0] / TOKENS + 4
        items = []
        for i, (cluster, mean) in enumerate(zip(clusters, means, strict=True)):
            items.append(Item(str(i), str(cluster), float(mean * TOKENS), TOKENS))
        value = math.exp(means.mean())
        stderr = value * means.std(ddof=1) / len(means) ** 0.5
        about_reading = {"unit": "1", "better": "lower", "stderr": stderr, "n": len(items)}
        reading = ReadingRow(metric="perplexity", value=value, **about_reading)
        yield fake_records.put(root, fake_records.record(method, **about), items, [reading])


def small(root):
    """Write two rows of three articles."""
    about = {"measure": "perplexity", "protocol": "wiki-mini@128x12", "token_digest": "few"}
    a, b = write(root, 3, ("dense", "wanda"), **about)
    return MetricPair("", "perplexity", (a,), (b,))


def large(root, model):
    about = {"measure": "perplexity", "identity": {"model": model}}
    return list(write(root, MIN_ARTICLES, ("dense", "wanda", "ria"), **about))


def test_few_articles_take_the_variance_of_larger_records_of_the_same_model(tmp_path):
    pair = small(tmp_path)
    large(tmp_path, "another")

    def estimate():
        results = read(tmp_path)
        table = ArticleVarianceTable(results)
        return paired_estimate.estimate_pair(pair, results, results, 0.05, learned=table)

    with pytest.raises(paired_estimate.FewArticles, match=r"^no interval: 3 articles$"):
        estimate()
    large(tmp_path, "tiny")
    found = estimate()
    assert (found.n, found.unit) == (3, "articles")
    assert found.low < 0 < found.high


def test_a_board_says_that_few_articles_have_no_interval_and_ranks_nothing(tmp_path):
    small(tmp_path)
    (table,) = board.make_sections([read(tmp_path)])[0].tables
    assert any(note.endswith("no interval: 3 articles.") for note in table.notes)
    assert table.ranked_by is None and not table.intervals
    row = next(row for row in table.rows if row.name == "wanda 2:4")
    assert row.facts.loss.value and row.facts.loss.low is None
