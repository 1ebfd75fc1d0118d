"""Compare two result sets: a verdict on each number."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from bench.comparing.floors import Floors
from bench.comparing.gate_settings import CompareSettings
from bench.comparing.known_variance import learn
from bench.comparing.paired_estimate import (
    NotComparable,
    counted_change,
    estimate_pair,
    mean_change,
    mean_values,
    pair_items,
)
from bench.comparing.pairing import NOT_REPORTED, MetricPair, pair_results
from bench.comparing.result_set import ResultSet, gc_paused
from bench.results import metrics
from bench.results.record import Record
from bench.stats import multiple_tests
from bench.stats.bootstrap import Estimate, students_t
from bench.system.text import amount

FAILING_VERDICTS = ("REGRESSION", "NEW_FAILURE", "MISSING")
VERDICTS = (
    *FAILING_VERDICTS,
    "NOT_COMPARABLE",
    "INCONCLUSIVE",
    "NO_BASELINE",
    "FIXED",
    "IMPROVED",
    "OK",
)
"""Worst first."""
MARKS = {
    "REGRESSION": "-",
    "IMPROVED": "+",
    "OK": "",
    "INCONCLUSIVE": "~",
    "NOT_COMPARABLE": "x",
    "NO_BASELINE": "",
}
"""Marks of rows: - is worse and + is better. Other verdicts are failures and have the mark !."""


@dataclass(frozen=True)
class Row:
    """The verdict on one number."""

    name: str
    metric: str
    verdict: str
    reason: str = ""
    before: float | None = None
    after: float | None = None
    unit: str = ""
    ratio: bool = False
    """True if the estimate is of ln(after / before)."""
    better: str = ""
    estimate: Estimate | None = None
    adjusted: float | None = None
    """p value, adjusted for the whole family of tests: for the margin, or for 0 if the number is
    better."""
    margin: float | None = None
    required_n: tuple[int, str] | None = None
    """Count and unit that would decide an inconclusive number."""
    records: tuple[Record, ...] = ()

    @property
    def effect(self) -> tuple[float, float | None, float | None] | None:
        """Return the ratio or difference, and the ends of its interval, which are None if it says
        nothing."""
        if not self.estimate:
            return None
        return self.estimate.effect(self.ratio)

    @property
    def mark(self) -> str:
        return MARKS.get(self.verdict, "!")


class AdjustedP(NamedTuple):
    """p values, adjusted for the whole family of tests: for a change of 0, and for a change of the
    margin."""

    change: float
    margin: float


@dataclass(frozen=True)
class Comparison:
    """The verdicts on all numbers.

    level: 1 - coverage of each interval. family: number of tests that were adjusted together.
    """

    rows: tuple[Row, ...]
    settings: CompareSettings
    family: int
    level: float
    new: int = 0
    """Number of identities that are only in `after`."""
    unjudged: tuple[str, ...] = ()
    """Metrics without a margin."""

    @property
    def failed(self) -> tuple[Row, ...]:
        """Return the rows that fail a gate: a number that cannot be compared fails unless the
        settings except it."""
        bad = set(FAILING_VERDICTS)
        if self.settings.strict:
            bad.add("INCONCLUSIVE")
        return tuple(
            r
            for r in self.rows
            if r.verdict in bad or (r.verdict == "NOT_COMPARABLE" and not self._excepts(r))
        )

    def _excepts(self, row: Row) -> bool:
        names = {row.metric}
        if row.metric == "speed" or metrics.find(row.metric, row.unit or None).is_time:
            names.add("latency")
        return not names.isdisjoint(self.settings.not_comparable)

    def count(self) -> dict[str, int]:
        """Return how many rows have each verdict, the worst first."""
        counts = Counter(row.verdict for row in self.rows)
        return {verdict: counts[verdict] for verdict in VERDICTS if verdict in counts}


@gc_paused()
def compare(
    before: ResultSet,
    after: ResultSet,
    settings: CompareSettings,
    *,
    ignore: tuple[str, ...] = (),
    exploratory: bool = False,
    every_metric: bool = False,
) -> Comparison:
    """Compare every number of `before` with that of `after`.

    Counted numbers, and those that only had to be reproduced, are not tests.

    Args:
        ignore: columns of an identity in which the two may differ.
        exploratory: compare for people, not for a gate. Intervals hold each on its own instead of
            Bonferroni's, and seeds of only one side are left out. Metrics without a margin are
            compared, too.
        every_metric: compare metrics that no table shows, too.
    """
    before, after = before.with_cache(), after.with_cache()
    pairs, unpaired, new = pair_results(before, after, ignore, common_seeds=exploratory)
    judged = [
        p
        for p in pairs
        if (exploratory and (every_metric or p.definition.in_tables))
        or settings.margin(p.definition) is not None
    ]
    skipped = sorted({p.metric for p in pairs} - {p.metric for p in judged})
    rows = [
        Row(u.name, u.metric, u.verdict, u.reason, records=u.records)
        for u in unpaired
        # A missing metric matters if it has a margin, a missing measurement always.
        if u.reason != NOT_REPORTED or settings.margin(metrics.find(u.metric, u.unit)) is not None
    ]
    to_estimate: list[MetricPair] = []
    floors = Floors((*before.records, *after.records))
    for pair in judged:
        reason = pair.obstacle()
        if reason:
            rows.append(_row(pair, "NOT_COMPARABLE", reason))
        elif pair.same_key and not pair.definition.is_time and not pair.counted:
            try:
                pair_items(pair, before, after)
                rows.append(_check_reproduction(pair, settings))
            except NotComparable as fault:
                rows.append(_row(pair, "NOT_COMPARABLE", str(fault)))
        elif at_floor := floors.describe(pair):
            rows.append(_row(pair, "INCONCLUSIVE", at_floor))
        else:
            to_estimate.append(pair)
    sampled = sum(not p.counted for p in to_estimate)
    level = settings.alpha if exploratory else multiple_tests.bonferroni(settings.alpha, sampled)
    # A row on both sides counts once.
    every, sides = {}, {}
    for side in (after, before):
        for record in side.records:
            every[record.identity.key()], sides[id(record)] = record, side
    variance = learn(
        ResultSet("", tuple(every.values()), lambda record: sides[id(record)].items(record)),
        settings.seed_noise,
    )
    estimates: list[tuple[MetricPair, Estimate, str]] = []
    for pair in to_estimate:
        noise, source = None, ""
        if not pair.same_draws:
            noise, source = variance.draws.of_pair(pair) or (None, "")
        margin = _worse(pair) * _margin(pair, settings)
        try:
            estimate = estimate_pair(pair, before, after, level, noise, margin, variance.articles)
            estimates.append((pair, estimate, source))
        except NotComparable as fault:
            rows.append(_row(pair, "NOT_COMPARABLE", str(fault)))
    rows += _decide_all(estimates, settings, level)
    rows.sort(key=lambda r: (VERDICTS.index(r.verdict), r.name, r.metric))
    return Comparison(tuple(rows), settings, sampled, level, new, tuple(skipped))


def _margin(pair: MetricPair, settings: CompareSettings) -> float:
    """Return the margin on the scale of the estimate. A metric without a margin has a margin of
    0."""
    margin = settings.margin(pair.definition) or 0.0
    return math.log1p(margin) if pair.is_ratio else margin


def _worse(pair: MetricPair) -> float:
    """Return 1 if a larger number is worse, else -1."""
    return 1.0 if pair.better == "lower" else -1.0


def _decide_all(
    estimates: Sequence[tuple[MetricPair, Estimate, str]], settings: CompareSettings, level: float
) -> Iterable[Row]:
    """Decide on all estimates. Holm adjusts the p values for a change of 0, and those for a change
    of the margin.

    level: 1 - coverage of each interval.
    """
    sampled = [i for i, (pair, _, _) in enumerate(estimates) if not pair.counted]
    judged = [_judged_estimate(pair, estimate, settings) for pair, estimate, _ in estimates]
    p_changed = multiple_tests.holm([estimates[i][1].p for i in sampled])
    p_beyond = multiple_tests.holm([judged[i].p_margin for i in sampled])
    changed = dict(zip(sampled, p_changed, strict=True))
    beyond = dict(zip(sampled, p_beyond, strict=True))
    corrected_level = multiple_tests.bonferroni(settings.alpha, len(sampled))
    for i, (pair, estimate, source) in enumerate(estimates):
        adjusted = AdjustedP(changed.get(i, estimate.p), beyond.get(i, estimate.p_margin))
        corrected = students_t(corrected_level, judged[i].freedom)
        own = students_t(level, judged[i].freedom)
        yield decide(pair, estimate, adjusted, settings, source, corrected / own)


def _judged_estimate(pair: MetricPair, estimate: Estimate, settings: CompareSettings) -> Estimate:
    """Return the estimate that is compared with the margin.

    With one seed, a number within its margin is judged for this seed, because no number of items
    could bring the noise between seeds under a margin. A loss beyond the margin could be another
    draw, so the noise between seeds counts.
    """
    within = _worse(pair) * estimate.value <= _margin(pair, settings)
    if within and estimate.alone and estimate.seeds == 1:
        return estimate.alone
    return estimate


def decide(
    pair: MetricPair,
    estimate: Estimate,
    adjusted: AdjustedP,
    settings: CompareSettings,
    source: str = "",
    wider: float = 1.0,
) -> Row:
    """Return REGRESSION, OK, IMPROVED or INCONCLUSIVE.

    A change within the tolerance is OK, however significant it is: the summation order alone can
    cause it.

    source: where the noise between seeds comes from; wider: half width of an interval that all
    tests share, over the estimate's.
    """
    margin, worse = _margin(pair, settings), _worse(pair)
    loss, judged = worse * estimate.value, _judged_estimate(pair, estimate, settings)
    raw_margin = settings.margin(pair.definition) or 0.0
    row = _row(
        pair,
        "OK",
        _seed_hint(pair, source),
        estimate=estimate,
        adjusted=adjusted.margin,
        margin=raw_margin,
    )
    if pair.counted:
        loss = worse * counted_change(pair)
        if loss > margin:
            return replace(row, verdict="REGRESSION")
        if -loss > margin:
            return replace(row, verdict="IMPROVED")
        return row
    if max(abs(estimate.low), abs(estimate.high)) <= settings.tolerance(pair.definition):
        return row
    if loss < 0 and multiple_tests.differs(adjusted.change, settings.alpha):
        return replace(row, verdict="IMPROVED", adjusted=adjusted.change)
    if multiple_tests.differs(adjusted.margin, settings.alpha):
        if loss > margin:
            return replace(row, verdict="REGRESSION")
        return row
    ends = (worse * judged.low, worse * judged.high)
    half = max(ends) - loss if loss <= margin else loss - min(ends)
    required_n = judged.required_n(loss, half * wider, margin)
    return replace(row, verdict="INCONCLUSIVE", required_n=required_n)


def _seed_hint(pair: MetricPair, source: str) -> str:
    seeds = {r.identity.seed for r in pair.before} - {None}
    if pair.counted:
        return ""
    if 0 < len(seeds) < 3:
        hint = f"{amount(len(seeds), 'calibration seed')}: use 3 or more for less noise"
        if source:
            return f"{hint}; noise between seeds added: {source}"
        return hint
    if pair.same_draws:
        return "paired by draw"
    return ""


def _check_reproduction(pair: MetricPair, settings: CompareSettings) -> Row:
    """Judge a number of the same key and machine. It must be the same for each seed, whatever the
    margin.

    One worse seed is a regression, however much better another is.
    """
    seeds = zip(pair.before, pair.after, strict=True)
    changes = [mean_change(replace(pair, before=(a,), after=(b,))) for a, b in seeds]
    beyond = [change for change in changes if abs(change) > settings.tolerance(pair.definition)]
    if not beyond:
        return _row(pair, "OK", "same key: reproduced" if any(changes) else "")
    worse = [change for change in beyond if change * _worse(pair) > 0]
    reason = f"same key, different number ({max(worse or beyond, key=abs):+.2g}): not reproduced"
    return _row(pair, "REGRESSION" if worse else "IMPROVED", reason)


def _row(pair: MetricPair, verdict: str, reason: str = "", **fields: Any) -> Row:
    was, now = pair.readings
    known = all(r.value is not None for r in (*was, *now)) and was and now
    a, b = mean_values(pair) if known else (None, None)
    return Row(
        pair.name,
        pair.metric,
        verdict,
        reason,
        a,
        b,
        pair.unit,
        pair.is_ratio,
        pair.better,
        records=pair.after,
        **fields,
    )
