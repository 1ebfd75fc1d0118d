"""Compare a table's rows in pairs: the interval of each difference, and ranks in which rows that do
not differ tie."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, replace
from itertools import chain, combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.compare import paired_estimate
from bench.compare.article_variance import ArticleVarianceTable
from bench.compare.known_variance import KnownVariance, learn
from bench.compare.pairing import Seeds, order, pair_seeds
from bench.compare.result_set import ResultSet, row_of
from bench.reporting.facts import Bound, Flips, Interval
from bench.reporting.labelled_rows import is_file
from bench.reporting.view import Table, TableColumn
from bench.results import metrics
from bench.results.computed import memory
from bench.results.record import Record
from bench.stats import multiple_tests
from bench.stats.articles import ArticleVariance
from bench.stats.bootstrap import Estimate, students_t
from bench.stats.ratios import wilson_interval

Array = NDArray[np.float64]

MAX_PAIRED_ROWS = 96
"""Number of best rows of a column that are compared in pairs (4,560 pairs). The others have neither
intervals nor ranks."""
ALPHA = 0.05
"""Probability of a false difference in a table. Intervals cover 1 - ALPHA."""

Rows = tuple[int, int]
"""Two rows of a table, the smaller number first."""


def add_intervals(
    table: Table,
    records: Mapping[str, Record],
    results: ResultSet,
    paired: Callable[[TableColumn], bool] = lambda column: True,
    known: KnownVariance | None = None,
) -> Table:
    """Add ranks, and an interval for each pair of rows that was measured on the same items.

    paired: returns whether to compare rows in a column. Parts of rows are compared, too, but have
    no rank. known: noise of numbers, by default from `results`.

    Each interval holds on its own. Two rows tie unless Holm's p over the column's pairs is under
    ALPHA. So at most a share ALPHA of tables orders rows that are equal. A column has ranks if
    every number in it has scores by item.
    """
    results = results.with_cache()
    known = known or learn(results)
    remembered = RememberedPairs(results, known)
    remarks = list(table.remarks)
    intervals: dict[tuple[int, int, int], Interval] = {}
    ranks: dict[int, tuple[str, ...]] = {}
    unranked = 0
    for c, column in enumerate(table.columns):
        if not paired(column):
            continue
        by_row: dict[int, Seeds] = {}
        values: dict[int, float] = {}
        for k in range(len(table.rows)):
            value, seeds = table.value(k, c), seeds_of(table, k, c, records)
            if value is not None:
                values[k] = column.sign * value
            if seeds:
                by_row[k] = seeds
        best_first = sorted(by_row, key=lambda k: values[k])
        compared = sorted(best_first[:MAX_PAIRED_ROWS])
        if len(compared) < len(by_row):
            unranked = max(unranked, len(by_row))
        sides = {k: remembered.describe(by_row[k], column.metric) for k in compared}
        of_column: dict[Rows, Interval] = {}
        few, tests = "", len(compared) * (len(compared) - 1) // 2
        for a, b in combinations(compared, 2):
            try:
                interval = remembered.compare(
                    by_row[a], by_row[b], sides[a], sides[b], column.metric, ALPHA, tests
                )
            except paired_estimate.FewArticles as fault:
                few = f"{column.label}: {fault}."
                continue
            if interval:
                of_column[a, b] = intervals[a, b, c] = interval
        if few and not column.hidden:
            remarks.append(few)
        if of_column and not few and column.better and len(by_row) == len(values):
            ranks[c] = _ranks(table, values, compared, of_column)
    memory().save()
    return replace(
        table, intervals=intervals, ranks=ranks, unranked=unranked, remarks=tuple(remarks)
    )


class RememberedPairs:
    """Intervals of pairs, each computed once on a machine.

    An answer is found by the records of both rows, those of the same weights, and the noise that is
    added. Where the variance between articles was learned, the answer holds while it is the same.
    """

    def __init__(self, results: ResultSet, known: KnownVariance) -> None:
        self.results, self.known = results, known
        self.memory = memory()
        self.learned = _Asked(known.articles)

    def describe(self, seeds: Seeds, metric: str) -> list[Any] | None:
        """Return what a row adds to an estimate, as JSON, or None if it has no digest."""
        out: list[Any] = []
        for seed in sorted(seeds, key=order):
            record = seeds[seed]
            beside = self.results.scored.get((record.artifact, row_of(record)), {})
            digests = sorted(one.digest for one in (record, *beside.values()))
            noise = ""
            for reading in record.readings:
                definition = metrics.find(reading.metric, reading.unit)
                is_noisy = seed is not None and definition.sampled and not definition.counted
                if reading.metric == metric and is_noisy:
                    noise = repr(self.known.draws.of_record(record, definition))
            out.append([seed, record.digest, digests, noise])
            if "" in digests:
                return None
        return out

    def compare(
        self,
        a: Seeds,
        b: Seeds,
        of_a: list[Any] | None,
        of_b: list[Any] | None,
        metric: str,
        level: float = ALPHA,
        tests: int = 1,
    ) -> Interval | None:
        """As `_compare`. of_a, of_b: what `describe` says of both rows."""
        about = ("pair", of_a, of_b, metric, level, tests)
        found = self.memory.get(*about) if of_a and of_b else None
        if found is not None:
            fields, few, learned = found
            first = next(iter(a.values()))
            if learned is None or learned == repr(self.known.articles.of(first, metric)):
                if few is not None:
                    raise paired_estimate.FewArticles(few)
                return Interval(*fields) if fields else None
        self.learned.answer = None
        known = self.known._replace(articles=self.learned)
        interval: Interval | None = None
        articles: int | None = None
        try:
            interval = _compare(a, b, metric, self.results, known, level, tests)
        except paired_estimate.FewArticles as fault:
            articles = fault.count
        if of_a and of_b:
            fields = astuple(interval) if interval else None
            self.memory.put([fields, articles, self.learned.answer], *about)
        if articles is not None:
            raise paired_estimate.FewArticles(articles)
        return interval


class _Asked(ArticleVarianceTable):
    """A table that says what it answered last."""

    def __init__(self, table: ArticleVarianceTable) -> None:
        self.table = table
        self.answer: str | None = None

    def of(self, record: Record, metric: str) -> ArticleVariance | None:
        found = self.table.of(record, metric)
        self.answer = repr(found)
        return found


def seeds_of(table: Table, row: int, column: int, records: Mapping[str, Record]) -> Seeds:
    """Return a cell's records by seed if each has scores by item, or else nothing.

    A mean over tasks has no records. The row of a file has the dense model's records, whose sizes
    are not those of the file.
    """
    cell = table.rows[row].cells[column]
    if cell is None or cell.value is None or cell.average:
        return {}
    if table.columns[column].definition.counted and is_file(table.rows[row].filters):
        return {}
    of_cell = [records[key] for key in cell.records]
    if not all(record.items for record in of_cell):
        return {}
    return {record.identity.seed: record for record in of_cell}


def compare(
    a: Seeds,
    b: Seeds,
    metric: str,
    results: ResultSet,
    known: KnownVariance,
    level: float = ALPHA,
) -> Interval | None:
    """Return the change from a to b with an interval of coverage 1 - level, or None if they cannot
    be compared.

    known: noise between seeds, which is added if a and b share few seeds, and between articles,
    which is taken if they share few articles.
    """
    try:
        pairs = RememberedPairs(results, known)
        of_a, of_b = pairs.describe(a, metric), pairs.describe(b, metric)
        return pairs.compare(a, b, of_a, of_b, metric, level)
    except paired_estimate.NotComparable:
        return None


def _compare(
    a: Seeds,
    b: Seeds,
    metric: str,
    results: ResultSet,
    known: KnownVariance,
    level: float,
    tests: int = 1,
) -> Interval | None:
    """As `compare`, but raise FewArticles. tests: number of pairs that are tested together."""
    pairs, _ = pair_seeds("", a, b, True)
    pair = next((p for p in pairs if p.metric == metric), None)
    # A ratio to 0 says nothing.
    if pair is None or pair.obstacle() or pair.is_ratio != pair.definition.is_ratio:
        return None
    noise, source = known.draws.of_pair(pair) or (None, "")
    try:
        estimate = paired_estimate.estimate_pair(
            pair, results, results, level, noise, learned=known.articles
        )
    except paired_estimate.FewArticles:
        raise
    except paired_estimate.NotComparable:
        return None
    value, low, high = estimate.effect(pair.is_ratio)
    if low is None or high is None:
        return None
    if not estimate.alone:
        source = ""
    return Interval(
        value,
        low,
        high,
        estimate.n,
        estimate.unit,
        estimate.seeds,
        estimate.p,
        source,
        _missing(estimate, level, tests),
    )


def _missing(estimate: Estimate, level: float, tests: int) -> tuple[int, str] | None:
    """Return how many more units would tell the rows apart in all tests at once, and the unit."""
    change = abs(estimate.value)
    half = min(abs(estimate.high - estimate.value), abs(estimate.value - estimate.low))
    corrected = students_t(multiple_tests.bonferroni(level, tests), estimate.freedom)
    wider = corrected / students_t(level, estimate.freedom)
    needed = estimate.required_n(change, half * wider, 0.0)
    if needed is None:
        return None
    count, unit = needed
    has = estimate.seeds if unit == "seeds" else estimate.n
    return max(1, count - has), unit


def differ_from_best(table: Table, column: int) -> dict[Rows, bool]:
    """Return for each compared pair whether its rows differ, given that one of them looks best.

    They differ if p is under ALPHA divided by the number of other rows. So in at most a share ALPHA
    of tables the row that is truly the best differs from the one that looks best: Hsu's comparisons
    with the best (Annals of Statistics 12, 1984, 1136), at Bonferroni's level. Ranks need all
    pairs, and tell fewer rows apart.
    """
    p = {(a, b): i.p for (a, b, c), i in table.intervals.items() if c == column}
    compared = set(chain.from_iterable(p))
    level = multiple_tests.bonferroni(ALPHA, len(compared) - 1)
    return {pair: multiple_tests.differs(one, level) for pair, one in p.items()}


def _ranks(
    table: Table,
    values: Mapping[int, float],
    compared: Sequence[int],
    intervals: Mapping[Rows, Interval],
) -> tuple[str, ...]:
    """Return the rank of each row as text, such as "2" or "2–4", and "" for a row that was not
    compared.

    Ranks count all whole rows. A row that was not compared may tie with every other.

    values: numbers of the rows, lower is better. intervals: those of the column.
    """
    adjusted = multiple_tests.holm([i.p for i in intervals.values()])
    ranked = sorted((k for k in table.whole_rows if k in values), key=lambda k: values[k])
    is_ranked = set(ranked)
    differing = [
        rows
        for rows, p in zip(intervals, adjusted, strict=True)
        if multiple_tests.differs(p, ALPHA) and is_ranked.issuperset(rows)
    ]
    ranks = [""] * len(table.rows)
    for k, best, worst in multiple_tests.tie_groups(ranked, differing):
        if k in compared:
            ranks[k] = str(best) if best == worst else f"{best}–{worst}"
    return tuple(ranks)


def count_flips(answers: Sequence[tuple[NDArray[np.bool_], Array, Array]]) -> Flips | None:
    """Return the flips in some tasks, or None without questions. A question counts once, not once
    per seed.

    answers: for each task, three arrays: whether the answer changed [seeds, questions], whether it
    was right before [questions], and whether it is right now [seeds, questions].
    """
    asked = sum(len(was) for _, was, _ in answers)
    if not asked:
        return None
    changed = _sum_of_questions(other for other, _, _ in answers)
    lost = _sum_of_questions(was > now for _, was, now in answers)
    gained = _sum_of_questions(was < now for _, was, now in answers)
    share = Bound(changed / asked, *wilson_interval(changed, asked, ALPHA))
    return Flips(share, lost / asked, gained / asked)


def _sum_of_questions(flags: Iterable[NDArray[np.bool_]]) -> float:
    """Return the sum over questions of a flag's mean over seeds. flags: [seeds, questions] for each
    task."""
    return math.fsum(float(of_task.mean(0).sum()) for of_task in flags)


def ordered(a: int, b: int) -> Rows:
    """Return two rows as a key, the smaller number first."""
    return (min(a, b), max(a, b))
