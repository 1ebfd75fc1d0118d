"""What other rows show about the noise of a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from bench.comparing.article_variance import ArticleVarianceTable
from bench.comparing.result_set import ResultSet
from bench.comparing.seed_noise_table import SeedNoiseTable


class KnownVariance(NamedTuple):
    """Variance between seeds and between articles."""

    draws: SeedNoiseTable
    articles: ArticleVarianceTable


def learn(results: ResultSet, given: Mapping[str, float] | None = None) -> KnownVariance:
    """Learn from results, one record for each identity.

    given: standard deviations between seeds by metric, which replace those of the records.
    """
    return KnownVariance(SeedNoiseTable(results.records, given), ArticleVarianceTable(results))
