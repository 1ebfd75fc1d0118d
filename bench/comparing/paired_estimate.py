"""Estimate what changed from the per-item scores of a pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.comparing.article_variance import MIN_ARTICLES, ArticleVarianceTable
from bench.comparing.pairing import MetricPair
from bench.comparing.result_set import ResultSet, Scored, row_of
from bench.results import metrics
from bench.results.derive import Items, pseudo_values, scores_of
from bench.results.record import NoItems, ReadingRow, Record
from bench.stats import articles, bootstrap, mcnemar
from bench.stats.bootstrap import Array, Estimate
from bench.stats.seed_noise import SeedNoise, add_seed_noise
from bench.system.text import amount
from methods.contract.errors import UserError
from methods.contract.pattern import Pattern

MIN_TIMING_BLOCKS = 10

MAX_REACH = 1e6
"""Largest half width of an interval, as a factor of a ratio, or as a difference of a metric without
a range. A wider one says nothing."""

MAX_RESAMPLED = 10_000
"""Most items of a metric with the aggregation "own", which is computed once without each item."""

NO_SCORES = "it has no score for each item"


class NotComparable(Exception):
    """The reason why two sets of scores cannot be compared."""


class FewArticles(NotComparable):
    """Too few articles for an interval, and no record of the model has enough."""

    def __init__(self, count: int) -> None:
        super().__init__(f"no interval: {amount(count, 'article')}")
        self.count = count


def estimate_pair(
    pair: MetricPair,
    before: ResultSet,
    after: ResultSet,
    level: float,
    noise: SeedNoise | None = None,
    margin: float = 0.0,
    learned: ArticleVarianceTable | None = None,
) -> Estimate:
    """Estimate the change of a pair's metric, with an interval of coverage 1 - level: endless if it
    says nothing.

    noise: noise between seeds of such rows, as add_seed_noise takes it. margin: change that
    `p_margin` tests; of the logarithm if the change is a ratio. learned: variance between articles,
    for windows of fewer than MIN_ARTICLES. Raise NotComparable if the items differ, or are too few.
    """
    if pair.counted:
        return bootstrap.exact(mean_change(pair), 1, "count", len(pair.before))
    both = pair_items(pair, before, after)
    of_before, of_after = zip(*both, strict=True)
    counts_before = {len(items.ids) for items in of_before}
    counts_after = {len(items.ids) for items in of_after}
    if len(counts_before) > 1 or len(counts_after) > 1:
        what = "numbers of blocks of timings" if pair.definition.is_time else "items"
        raise NotComparable(f"seeds were measured on different {what}")
    was = _stack_scores(of_before, pair.before, pair.metric, before)
    now = _stack_scores(of_after, pair.after, pair.metric, after)
    if np.array_equal(was, now) and not _could_differ(pair, both, before, after):
        return bootstrap.exact(0.0, was.shape[1], "items", len(pair.before), margin)
    if pair.definition.is_time:
        return _estimate_timing(was, now, level, margin)
    items = both[0][0]
    if any(not _equal(items.ids, other.ids) for other, _ in both):
        raise NotComparable("seeds were measured on different items")
    if (items.weights == 1).all():
        found = _estimate_questions(was, now, level, margin)
        if _share_articles(items):
            sums, weights = _sums_by_article(now - was, items)
            found = bootstrap.wider(
                found, bootstrap.estimate_means(sums, level, weights, margin=margin)
            )
    else:
        found = _estimate_windows(pair, items, now - was, level, margin, learned)
    found = _without_endless(found, pair)
    if noise:
        found = _without_endless(add_seed_noise(found, noise, level, margin), pair)
    return found


def pair_items(pair: MetricPair, before: ResultSet, after: ResultSet) -> list[tuple[Items, Items]]:
    """Return the items of both sides for each seed. Raise NotComparable if they are of other
    windows or questions."""
    try:
        return [
            _check_items(before.items(a), after.items(b), pair.definition.is_time)
            for a, b in zip(pair.before, pair.after, strict=True)
        ]
    except NoItems:
        if pair.definition.sampled:
            raise
        raise NotComparable(NO_SCORES) from None


def _could_differ(
    pair: MetricPair, both: Sequence[tuple[Items, Items]], before: ResultSet, after: ResultSet
) -> bool:
    """Return whether equal scores of two records say little: right and wrong answers, of which
    other models may have the same."""
    if pair.definition.is_time or not (both[0][0].weights == 1).all():
        return False
    return not all(
        _are_of_one_model(was, now) or _same_model(a, b, before, after)
        for (was, now), a, b in zip(both, pair.before, pair.after, strict=True)
    )


def _same_model(a: Record, b: Record, before: ResultSet, after: ResultSet) -> bool:
    """Return whether two records are of the same weights, as their keys say or the scores of
    another measurement show.

    Counts of weights do not show it: each layer of every 2:4 model has as many zeros. An imported
    record has no artifact, so its row is known by its identity.
    """
    if a.key == b.key or (a.artifact and a.artifact == b.artifact):
        return True
    was, now = _scored(a, before), _scored(b, after)
    return any(
        _are_of_one_model(before.items(was[k]), after.items(now[k]))
        for k in was.keys() & now.keys()
    )


def _scored(one: Record, results: ResultSet) -> Scored:
    """Return the records with scores of a record's weights, by measure and protocol."""
    return results.scored.get((one.artifact, row_of(one)), {})


def _are_of_one_model(was: Items, now: Items) -> bool:
    """Return whether all scores are equal, and some are no right or wrong answers: two models do
    not have the same losses."""
    columns = [(scores, now.columns.get(name)) for name, scores in was.columns.items()]
    equal = all(other is not None and np.array_equal(scores, other) for scores, other in columns)
    return equal and not all(np.isin(scores, (0, 1)).all() for scores, _ in columns)


def _without_endless(estimate: Estimate, pair: MetricPair) -> Estimate:
    """Return the estimate, with infinite ends if its interval is wider than all changes that the
    metric can have."""
    metric = pair.definition
    reach = MAX_REACH
    if pair.is_ratio:
        reach = math.log(MAX_REACH)
    elif metric.low is not None and metric.high is not None:
        reach = metric.high - metric.low
    if (estimate.high - estimate.low) / 2 <= reach:
        return estimate
    return replace(estimate, low=-math.inf, high=math.inf)


def counted_change(pair: MetricPair) -> float:
    """Return the change of a counted number that is a gain or a loss.

    Of a share of zeros, only those that the pattern requires count: rounding to few bits sets many
    more weights to zero.
    """
    if not pair.definition.capped_by_pattern:
        return mean_change(pair)
    was, now = mean_values(pair)
    required_before = Pattern.parse(pair.before[0].identity.pattern).share
    required_after = Pattern.parse(pair.after[0].identity.pattern).share
    return min(now, required_after) - min(was, required_before)


def mean_values(pair: MetricPair) -> tuple[float, float]:
    """Return the means over seeds before and after. They are geometric if the change is a ratio."""
    was, now = pair.readings
    return _mean(was, pair.is_ratio), _mean(now, pair.is_ratio)


def _mean(readings: Sequence[ReadingRow], geometric: bool) -> float:
    values = [float(reading.value) for reading in readings if reading.value is not None]
    return mean_of(values, geometric)


def mean_of(values: Sequence[float], geometric: bool) -> float:
    """Return the mean over seeds."""
    if geometric:
        return math.exp(math.fsum(map(math.log, values)) / len(values))
    return math.fsum(values) / len(values)


def mean_change(pair: MetricPair) -> float:
    """Return after minus before, of the logarithms if the change is a ratio."""
    return change_of(*mean_values(pair), pair.is_ratio)


def change_of(before: float, after: float, is_ratio: bool) -> float:
    """Return after minus before, of the logarithms if the change is a ratio."""
    return math.log(after / before) if is_ratio else after - before


def _check_items(a: Items, b: Items, timing: bool) -> tuple[Items, Items]:
    if not timing and not (
        _equal(a.ids, b.ids) and _equal(a.clusters, b.clusters) and _equal(a.weights, b.weights)
    ):
        raise NotComparable(f"measured on different items: {len(a.ids):,}, now {len(b.ids):,}")
    if len(a.ids) == 0:
        raise NotComparable("there are no items")
    if not timing and not a.weights.sum() > 0:
        raise NotComparable("the weights of the items are not above 0")
    return a, b


def _equal(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return a is b or np.array_equal(a, b)


def _stack_scores(
    sides: Sequence[Items], records: Sequence[Record], metric: str, results: ResultSet
) -> Array:
    """Return scores [seeds, items]."""
    columns = []
    for items, record in zip(sides, records, strict=True):
        key = (record.key, metric)
        if key not in results.scores:
            results.scores[key] = _column(items, record, metric)
        columns.append(results.scores[key])
    return np.stack(columns)


def _column(items: Items, record: Record, metric: str) -> Array:
    values = scores_of(metric, record, items)
    if values is None and metrics.find(metric).aggregation == "own":
        if len(items.ids) > MAX_RESAMPLED:
            raise NotComparable(f"it has {len(items.ids):,} items, more than {MAX_RESAMPLED:,}")
        values = pseudo_values(metric, record, items)
    if values is None:
        raise NotComparable(NO_SCORES)
    if not np.isfinite(values).all():
        raise UserError(f"per-item scores of {metric!r} are not finite: run the measurement again")
    return values


def _estimate_timing(was: Array, now: Array, level: float, margin: float) -> Estimate:
    if was.shape != now.shape or was.size < MIN_TIMING_BLOCKS:
        raise NotComparable(
            f"{was.size} and {now.size} blocks of timings: both sides need the same number, at "
            f"least {MIN_TIMING_BLOCKS}"
        )
    if min(was.min(), now.min()) <= 0:
        raise NotComparable("a timing is 0 or less")
    return bootstrap.estimate_blocks(was, now, level, margin=margin)


def _share_articles(items: Items) -> bool:
    """Return whether several questions share an article. McNemar's test takes each as independent,
    but they flip together."""
    return 1 < _articles(_Array(items.clusters))[0] < len(items.ids)


def _estimate_questions(was: Array, now: Array, level: float, margin: float) -> Estimate:
    right_or_wrong = bool(np.isin(was, (0, 1)).all() and np.isin(now, (0, 1)).all())
    if right_or_wrong and len(was) == 1:
        return mcnemar.estimate_flips(was[0], now[0], level, margin=margin)
    if was.shape[1] < 2:
        raise NotComparable("there is only one item")
    if right_or_wrong:
        return mcnemar.estimate_flips_over_seeds(was, now, level, margin=margin)
    return bootstrap.estimate_means(now - was, level, margin=margin)


def _estimate_windows(
    pair: MetricPair,
    items: Items,
    differences: Array,
    level: float,
    margin: float,
    learned: ArticleVarianceTable | None,
) -> Estimate:
    """Estimate from windows, or other weighted items, whose articles are independent."""
    sums, weights = _sums_by_article(differences, items)
    if len(weights) >= MIN_ARTICLES:
        return bootstrap.studentized_bootstrap(sums, weights, level, margin=margin)
    known = learned.of(pair.before[0], pair.metric) if learned else None
    if known is None or len(items.ids) < 2:
        raise FewArticles(len(weights))
    names = items.clusters.astype(str)
    return articles.estimate_few_articles(
        differences, items.weights, names, known, level, margin=margin
    )


def _sums_by_article(differences: Array, items: Items) -> tuple[Array, Array]:
    """Return sums by article [seeds, articles], and weights [articles]."""
    count, index = _articles(_Array(items.clusters))
    rows = (*differences, items.weights)
    sums: Array = np.stack([np.bincount(index, row, count) for row in rows])
    return sums[:-1], sums[-1]


class _Array:
    """An array as an argument of a cached function. It is equal to itself only."""

    def __init__(self, values: NDArray[Any]) -> None:
        self.values = values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Array) and self.values is other.values

    def __hash__(self) -> int:
        return id(self.values)


@lru_cache(maxsize=64)
def _articles(clusters: _Array) -> tuple[int, NDArray[np.intp]]:
    """Return how many articles items have, and the number of each item's article. All pairs on one
    text share them."""
    names, index = np.unique(clusters.values.astype(str), return_inverse=True)
    return len(names), index
