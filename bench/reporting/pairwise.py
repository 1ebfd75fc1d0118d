"""Compare a table's rows in pairs: the interval of each difference, and ranks in which rows that do
not differ tie."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.comparing import paired_estimate
from bench.comparing.article_variance import ArticleVarianceTable
from bench.comparing.known_variance import KnownVariance, learn
from bench.comparing.pairing import MetricPair, Seeds, kind_of, order, pair_seeds
from bench.comparing.result_set import ResultSet, row_of
from bench.comparing.seed_noise_table import KnownNoise
from bench.reporting.facts import Bound, Flips, Interval
from bench.reporting.labelled_rows import is_file
from bench.reporting.view import Table, TableColumn
from bench.results import metrics
from bench.results.computed import memory
from bench.results.record import Record
from bench.stats import bootstrap, multiple_tests
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
    comparer = PairComparer(results, known or learn(results))
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
        found = comparer.compare({k: by_row[k] for k in compared}, column.metric)
        intervals |= {(a, b, c): interval for (a, b), interval in found.intervals.items()}
        few = found.few
        if few is not None and not column.hidden:
            remarks.append(f"{column.label}: {paired_estimate.FewArticles(few)}.")
        if found.intervals and few is None and column.better and len(by_row) == len(values):
            ranks[c] = _ranks(table, values, compared, found.intervals)
    memory(__name__).save()
    return replace(
        table, intervals=intervals, ranks=ranks, unranked=unranked, remarks=tuple(remarks)
    )


class PairIntervals(NamedTuple):
    """The intervals of all pairs of some rows."""

    intervals: dict[Rows, Interval]
    few: int | None
    """Number of articles that were too few for an interval of some pair. None: of no pair."""


class PairComparer:
    """Compares the rows of a column in pairs, once on a machine.

    An answer is found by the records of all rows, those of the same weights, and the noise that is
    added. Where the variance between articles was learned, the answer holds while it is the same.
    """

    def __init__(self, results: ResultSet, known: KnownVariance) -> None:
        self.results, self.known = results, known
        self._beside: dict[str, list[str]] = {}
        """Digests of the records of the same weights, by key."""

    def compare(
        self, rows: Mapping[int, Seeds], metric: str, level: float = ALPHA
    ) -> PairIntervals:
        """Return the interval of each pair that can be compared, the smaller number first."""
        if len(rows) < 2:
            return PairIntervals({}, None)
        described = [self._describe(seeds, metric) for seeds in rows.values()]
        about = ("pairs", described, metric, level)
        is_known = all(digest for _, digest, _, _ in chain.from_iterable(described))
        answer = memory(__name__).get(*about) if is_known else None
        if answer is None or not self._holds(answer["learned"], rows, metric):
            answer = self._compute(rows, metric, level)
            if is_known:
                memory(__name__).put(answer, *about)
        pairs = combinations(rows, 2)
        found = zip(pairs, answer["pairs"], strict=True)
        intervals = {pair: Interval.rounded(*fields) for pair, fields in found if fields}
        return PairIntervals(intervals, answer["few"])

    def _describe(self, seeds: Seeds, metric: str) -> list[list[Any]]:
        """Return what each record of a row adds to an estimate, as JSON."""
        out: list[list[Any]] = []
        for seed in sorted(seeds, key=order):
            record = seeds[seed]
            if record.key not in self._beside:
                beside = self.results.scored.get((record.artifact, row_of(record)), {})
                self._beside[record.key] = sorted(one.digest for one in beside.values())
            noise = ""
            for reading in record.readings:
                definition = metrics.find(reading.metric, reading.unit)
                is_noisy = seed is not None and definition.sampled and not definition.counted
                if reading.metric == metric and is_noisy:
                    noise = repr(self.known.draws.of_record(record, definition))
            digests = self._beside[record.key]
            out.append([seed, record.digest and all(digests) and record.digest, digests, noise])
        return out

    def _holds(self, learned: Mapping[str, str], rows: Mapping[int, Seeds], metric: str) -> bool:
        """Return whether the variance between articles is that of an answer."""
        places = list(rows.values())
        return all(
            answer == repr(self.known.articles.of(next(iter(places[int(at)].values())), metric))
            for at, answer in learned.items()
        )

    def _compute(self, rows: Mapping[int, Seeds], metric: str, level: float) -> dict[str, Any]:
        """Return the fields of each pair's interval, or None, the number of too few articles, and
        the variance between articles that was asked for, by the place of the first row."""
        few: int | None = None
        pairs: list[Any] = []
        learned: dict[str, str] = {}
        asked = _Asked(self.known.articles)
        known = self.known._replace(articles=asked)
        sides = [_Side(seeds, metric, known) for seeds in rows.values()]
        tests = len(sides) * (len(sides) - 1) // 2
        for (at, a), (_, b) in combinations(enumerate(sides), 2):
            try:
                interval = _compare(a, b, self.results, known, level, tests)
            except paired_estimate.FewArticles as fault:
                few, interval = fault.count, None
            pairs.append(interval and interval.fields)
            answer = asked.take()
            if answer is not None:
                learned[str(at)] = answer
        return {"pairs": pairs, "few": few, "learned": learned}


class _Asked(ArticleVarianceTable):
    """A table that says what it answered last."""

    def __init__(self, table: ArticleVarianceTable) -> None:
        self.table = table
        self.answer: str | None = None

    def take(self) -> str | None:
        """Return the last answer, once. None: nothing was asked since."""
        answer, self.answer = self.answer, None
        return answer

    def of(self, record: Record, metric: str) -> ArticleVariance | None:
        found = self.table.of(record, metric)
        self.answer = repr(found)
        return found


class _Side:
    """A row of a column, with what all of its pairs share."""

    def __init__(self, seeds: Seeds, metric: str, known: KnownVariance) -> None:
        self.seeds, self.metric = seeds, metric
        self.records = tuple(seeds[seed] for seed in sorted(seeds, key=order))
        self.kind = kind_of(seeds, metric)
        if self.kind is None:
            return
        readings = [r for record in self.records for r in record.readings if r.metric == metric]
        self.definition = metrics.find(metric, readings[0].unit)
        values = [float(reading.value) for reading in readings if reading.value is not None]
        self.fits = not self.definition.is_ratio or min(values) > 0
        """Whether a ratio to it says something."""
        if self.definition.counted and self.fits:
            self.mean = paired_estimate.mean_of(values, self.definition.is_ratio)
        self.noise: list[KnownNoise] = []
        if self.definition.sampled and not self.definition.counted and None not in seeds:
            self.noise = [known.draws.of_record(self.records[0], self.definition)]


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
    found = PairComparer(results, known).compare({0: a, 1: b}, metric, level)
    return found.intervals.get((0, 1))


def _compare(
    a: _Side, b: _Side, results: ResultSet, known: KnownVariance, level: float, tests: int
) -> Interval | None:
    """As `compare`, but raise FewArticles. tests: number of pairs that are tested together."""
    if a.kind is None or a.kind != b.kind:
        pairs, _ = pair_seeds("", a.seeds, b.seeds, True)
        pair = next((p for p in pairs if p.metric == a.metric), None)
        # A ratio to 0 says nothing.
        if pair is None or pair.obstacle() or pair.is_ratio != pair.definition.is_ratio:
            return None
        noise, source = known.draws.of_pair(pair) or (None, "")
    else:
        if not (a.fits and b.fits):
            return None
        if a.definition.counted:
            change = paired_estimate.change_of(a.mean, b.mean, a.definition.is_ratio)
            exact = bootstrap.exact(change, 1, "count", len(a.records))
            return _interval(exact, a.definition.is_ratio, "", level, tests)
        pair = MetricPair("", a.metric, a.records, b.records)
        noise, source = known.draws.of_difference([*a.noise, *b.noise], len(a.records)) or (
            None,
            "",
        )
    try:
        estimate = paired_estimate.estimate_pair(
            pair, results, results, level, noise, learned=known.articles
        )
    except paired_estimate.FewArticles:
        raise
    except paired_estimate.NotComparable:
        return None
    return _interval(estimate, pair.is_ratio, source, level, tests)


def _interval(
    estimate: Estimate, is_ratio: bool, source: str, level: float, tests: int
) -> Interval | None:
    value, low, high = estimate.effect(is_ratio)
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
    if half == 0:
        return None
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
