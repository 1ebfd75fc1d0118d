"""Variance between the articles of a text, from a model's records with many articles."""

from __future__ import annotations

import numpy as np

from bench.comparing.result_set import ResultSet
from bench.results.computed import memory
from bench.results.derive import Items, scores_of
from bench.results.identity import Protocol
from bench.results.record import NoItems, Record
from bench.stats import articles
from bench.stats.articles import ArticleVariance
from bench.system.grouping import group_by

MIN_ARTICLES = 12
"""Smallest number of articles whose own variance gives an interval."""


class ArticleVarianceTable:
    """Variance between articles by model, metric and protocol.

    results: records with items, of which those of at least MIN_ARTICLES articles are used, one
    record for each identity.
    """

    def __init__(self, results: ResultSet) -> None:
        self.results = results
        self.known: dict[tuple[str, str, Protocol], ArticleVariance | None] = {}

    def of(self, record: Record, metric: str) -> ArticleVariance | None:
        """Return what other rows of a record's model show, or None without enough articles.

        Records of the same text come first, then those with the most articles.
        """
        key = (record.identity.model, metric, record.identity.protocol)
        if key not in self.known:
            self.known[key] = self._find(*key)
        return self.known[key]

    def _find(self, model: str, metric: str, protocol: Protocol) -> ArticleVariance | None:
        fitting = []
        for record in self.results.records:
            metrics = {reading.metric for reading in record.readings}
            if record.identity.model == model and metric in metrics and record.items:
                fitting.append(record)
        digests = [record.digest for record in fitting]
        about = ("articles", model, metric, protocol.label, protocol.name, digests)
        known = memory(__name__).get(*about) if all(digests) else None
        if known is not None:
            return ArticleVariance(*known) if known else None
        found = []
        groups = group_by(fitting, lambda record: (record.identity.protocol, record.token_digest))
        for (other, _), records in groups.items():
            learned = self._learn(records, metric)
            if learned is not None:
                is_same = other.name == protocol.name
                found.append((is_same, learned.articles, learned.pairs, learned))
        best = max(found)[-1] if found else None
        if all(digests):
            memory(__name__).put(best or [], *about)
        return best

    def _learn(self, records: list[Record], metric: str) -> ArticleVariance | None:
        """Learn from the records of one text, or return None if they have too few articles."""
        losses, first = [], None
        for record in records:
            items = self._items(record)
            if items is None:
                continue
            first = first or items
            if len(set(first.clusters)) < MIN_ARTICLES or (first.weights == 1).all():
                return None
            scores = scores_of(metric, record, items)
            same = np.array_equal(first.ids, items.ids)
            if same and scores is not None and np.isfinite(scores).all():
                losses.append(scores)
        if first is None or len(losses) < 2:
            return None
        return articles.learn(np.stack(losses), first.weights, first.clusters.astype(str))

    def _items(self, record: Record) -> Items | None:
        try:
            return self.results.items(record)
        except NoItems:
            return None
