"""Variance between articles: learned from long texts, and added to estimates from few articles."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.stats.bootstrap import (
    Array,
    Estimate,
    effective_size,
    exact,
    satterthwaite,
    students_p,
    students_t,
)


class ArticleVariance(NamedTuple):
    """How much more articles differ than the tokens of one article do.

    ratio: variance of the articles' means, over the variance of a token within an article. The
    variance of a window is that of its tokens, so windows of two lengths share the ratio.
    """

    ratio: float
    freedom: float
    """Degrees of freedom of the variance between articles."""
    articles: int
    pairs: int
    """Number of pairs of rows that it is the mean of."""


def learn(losses: Array, weights: Array, clusters: NDArray[Any]) -> ArticleVariance | None:
    """Learn from the losses of several rows on one text, over all pairs of rows.

    Each pair has the analysis of variance of an unbalanced one-way layout with random articles
    (Searle, Casella and McCulloch, Variance Components, 1992, ch. 3.6), of the differences of its
    losses per token.

    Args:
        losses: sums over the tokens of each window, [rows, windows].
        weights: tokens of the windows, [windows].
        clusters: article of each window, [windows].

    Returns:
        None if no two rows differ, or no article has two windows.
    """
    names, index = np.unique(clusters, return_inverse=True)
    count = len(names)
    sizes: Array = np.bincount(index, weights).astype(np.float64)
    spare = len(weights) - count
    if count < 2 or spare < 1:
        return None
    sums = np.stack([np.bincount(index, row, count) for row in losses])
    means = sums / sizes
    within = (losses / weights - means[:, index]) * np.sqrt(weights)
    overall = losses.sum(1, keepdims=True) / weights.sum()
    between = (means - overall) * np.sqrt(sizes)
    of_tokens = _squares_of_pairs(within) / spare
    size = (sizes.sum() - (sizes**2).sum() / sizes.sum()) / (count - 1)
    of_articles = (_squares_of_pairs(between) / (count - 1) - of_tokens) / size
    differ = of_tokens > 1e-9 * of_tokens.max(initial=0.0)
    if not differ.any():
        return None
    ratio = float((of_articles[differ] / of_tokens[differ]).mean())
    freedom = max(effective_size(sizes) - 1, 1.0)
    return ArticleVariance(max(ratio, 0.0), freedom, count, int(differ.sum()))


def _squares_of_pairs(rows: Array) -> Array:
    """Return |a - b|^2 for each pair of rows a and b."""
    products = rows @ rows.T
    own = np.diag(products)
    a, b = np.triu_indices(len(rows), 1)
    squares: Array = own[a] + own[b] - 2 * products[a, b]
    return squares


def estimate_few_articles(
    differences: Array,
    weights: Array,
    clusters: NDArray[Any],
    learned: ArticleVariance,
    level: float,
    *,
    margin: float = 0.0,
) -> Estimate:
    """Estimate the mean difference per token from few articles, with a learned variance between
    articles.

    The differences of an article share one effect, whose variance is `learned.ratio` times that of
    a token. Given the ratio, generalized least squares estimates the variance of a token from all
    windows. The ratio's own error has Satterthwaite's degrees of freedom. Student's t gives the
    interval.

    Args:
        differences: sums of after minus before, [seeds, windows], at least two windows.
        weights: tokens of the windows, [windows].
        clusters: article of each window, [windows].
        level: 1 - coverage.
        margin: change that `p_margin` tests.
    """
    names, index = np.unique(clusters, return_inverse=True)
    seeds, total = len(differences), float(weights.sum())
    mean = differences.mean(0)
    value = float(mean.sum()) / total
    sizes, sums = np.bincount(index, weights), np.bincount(index, mean)
    # The inverse of an article's covariance takes its mean times `shrunk` from the tokens.
    shrunk = learned.ratio / (1 + learned.ratio * sizes)
    precision = sizes - shrunk * sizes**2
    centre = float((sums - shrunk * sizes * sums).sum() / precision.sum())
    rest = mean - centre * weights
    squares = float((rest**2 / weights).sum())
    squares -= float((shrunk * np.bincount(index, rest) ** 2).sum())
    of_token = max(squares, 0.0) / (len(weights) - 1)
    of_articles = learned.ratio * float((sizes**2).sum()) / total
    variance = of_token * (1 + of_articles) / total
    share = of_articles / (1 + of_articles)
    freedom = 1 / (1 / (len(weights) - 1) + share**2 / learned.freedom)
    parts = [(variance, freedom)]
    between_seeds = 0.0
    if seeds > 1:
        between_seeds = float((differences.sum(1) / total).var(ddof=1)) / seeds
        parts.append((between_seeds, seeds - 1))
    variance += between_seeds
    if variance == 0:
        return exact(value, len(names), "articles", seeds, margin)
    freedom, stderr = satterthwaite(parts), variance**0.5
    half = students_t(level, freedom) * stderr
    p, p_margin = (students_p((value - null) / stderr, freedom) for null in (0.0, margin))
    return Estimate(
        value=value,
        stderr=stderr,
        low=value - half,
        high=value + half,
        p=p,
        n=len(names),
        unit="articles",
        seeds=seeds,
        seed_share=between_seeds / variance,
        freedom=freedom,
        p_margin=p_margin,
    )
