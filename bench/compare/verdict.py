"""Compare two result sets: a verdict on each number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.compare.estimate import (
    NotComparable,
    counted_change,
    estimate_pair,
    mean_change,
    mean_values,
    require_items,
)
from bench.compare.pairing import NOT_REPORTED, MetricPair, Unpaired, pair_results
from bench.compare.result_set import ResultSet, gc_paused
from bench.compare.settings import CompareSettings
from bench.results import metrics
from bench.results.record import Record
from bench.stats import multiple_tests, power
from bench.stats.bootstrap import Estimate
from bench.system.text import amount

FAILING_VERDICTS = ("REGRESSION", "NEW_FAILURE", "MISSING")
VERDICTS = (*FAILING_VERDICTS, "NOT_COMPARABLE", "INCONCLUSIVE", "NO_BASELINE", "FIXED", "IMPROVED", "OK")
"""Worst first."""
MARKS = {"REGRESSION": "-", "IMPROVED": "+", "OK": "", "INCONCLUSIVE": "~", "NOT_COMPARABLE": "x", "NO_BASELINE": ""}
"""Marks of rows: - is worse and + is better. Other verdicts are failures and have the mark !."""


def _ratio(logarithm: float) -> float:
    """Return e**logarithm, or infinity if no float holds it: an interval may be that wide."""
    try:
        return math.exp(logarithm)
    except OverflowError:
        return math.inf


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
    """p value, adjusted for the whole family of tests."""
    margin: float | None = None
    required_n: tuple[int, str] | None = None
    """Count and unit that would decide an inconclusive number."""
    records: tuple[Record, ...] = ()

    @property
    def effect(self) -> tuple[float, float, float] | None:
        """Return the ratio or difference, and the ends of its interval."""
        if self.estimate is None:
            return None
        e = (self.estimate.value, self.estimate.low, self.estimate.high)
        return (_ratio(e[0]), _ratio(e[1]), _ratio(e[2])) if self.ratio else e

    @property
    def mark(self) -> str:
        return MARKS.get(self.verdict, "!")


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
        """Return the rows that fail a gate: a number that cannot be compared fails unless the settings except it."""
        bad = (*FAILING_VERDICTS, "INCONCLUSIVE") if self.settings.strict else FAILING_VERDICTS
        return tuple(
            r for r in self.rows if r.verdict in bad or (r.verdict == "NOT_COMPARABLE" and not self._excepts(r))
        )

    def _excepts(self, row: Row) -> bool:
        is_time = row.metric == "speed" or metrics.find(row.metric, row.unit or None).is_time
        return bool({row.metric, *(["latency"] if is_time else [])} & set(self.settings.not_comparable))

    def count(self) -> dict[str, int]:
        """Return how many rows have each verdict, the worst first."""
        return {v: n for v in VERDICTS if (n := sum(r.verdict == v for r in self.rows))}


@gc_paused()
def compare(
    before: ResultSet,
    after: ResultSet,
    settings: CompareSettings,
    *,
    ignore: tuple[str, ...] = (),
    exploratory: bool = False,
) -> Comparison:
    """Compare every number of `before` with that of `after`.

    Counted numbers, and those that only had to be reproduced, are not tests.

    Args:
        ignore: columns of an identity in which the two may differ.
        exploratory: compare for people, not for a gate. p values are adjusted by Benjamini and Hochberg instead of Holm,
            intervals hold each on its own instead of Bonferroni's, and seeds of only one side are left out. Metrics
            without a margin are compared, too.

    Raises:
        UserError: scores cannot be read.
    """
    before, after = before.with_cache(), after.with_cache()
    pairs, unpaired, new = pair_results(before, after, ignore, common_seeds=exploratory)
    judged = [p for p in pairs if (exploratory and p.definition.in_tables) or settings.margin(p.definition) is not None]
    skipped = sorted({p.metric for p in pairs} - {p.metric for p in judged})
    rows = [_unpaired_row(u) for u in unpaired if _matters(u, settings)]
    to_estimate: list[MetricPair] = []
    for pair in judged:
        if reason := pair.obstacle():
            rows.append(_row(pair, "NOT_COMPARABLE", reason))
        elif pair.same_key and not pair.definition.is_time and not pair.counted:
            require_items(pair, before, after)
            rows.append(_check_reproduction(pair, settings))
        else:
            to_estimate.append(pair)
    sampled = sum(not p.counted for p in to_estimate)
    level = settings.alpha if exploratory else multiple_tests.bonferroni(settings.alpha, sampled)
    estimates: list[tuple[MetricPair, Estimate]] = []
    for pair in to_estimate:
        try:
            estimate = estimate_pair(pair, before, after, level, settings.noise(pair.definition))
            estimates.append((pair, estimate))
        except NotComparable as fault:
            rows.append(_row(pair, "NOT_COMPARABLE", str(fault)))
    rows += _decide_all(estimates, settings, exploratory)
    rows.sort(key=lambda r: (VERDICTS.index(r.verdict), r.name, r.metric))
    return Comparison(tuple(rows), settings, sampled, level, new, tuple(skipped))


def _matters(unpaired: Unpaired, settings: CompareSettings) -> bool:
    """Return whether an absence matters. A missing metric matters if it has a margin, a missing measurement always."""
    return unpaired.reason != NOT_REPORTED or settings.margin(metrics.find(unpaired.metric)) is not None


def _decide_all(
    estimates: Sequence[tuple[MetricPair, Estimate]], settings: CompareSettings, exploratory: bool
) -> Iterable[Row]:
    adjust = multiple_tests.benjamini_hochberg if exploratory else multiple_tests.holm
    sampled = [i for i, (pair, _) in enumerate(estimates) if not pair.counted]
    adjusted = dict(zip(sampled, adjust([estimates[i][1].p for i in sampled]), strict=True))
    for i, (pair, estimate) in enumerate(estimates):
        yield decide(pair, estimate, adjusted.get(i, estimate.p), settings)


def decide(pair: MetricPair, estimate: Estimate, adjusted: float, settings: CompareSettings) -> Row:
    """Return REGRESSION, OK, IMPROVED or INCONCLUSIVE. A metric without a margin has a margin of 0.

    A change within the tolerance is OK, however significant it is: the summation order alone can cause it.
    """
    raw_margin = settings.margin(pair.definition) or 0.0
    margin = math.log1p(raw_margin) if pair.definition.is_ratio else raw_margin
    worse = 1.0 if pair.better == "lower" else -1.0
    loss, largest_loss = worse * estimate.value, max(worse * estimate.low, worse * estimate.high)
    row = _row(pair, "OK", _seed_hint(pair), estimate=estimate, adjusted=adjusted, margin=raw_margin)
    if pair.counted:
        loss = worse * counted_change(pair)
        return replace(row, verdict="REGRESSION" if loss > margin else "IMPROVED" if -loss > margin else "OK")
    if max(abs(estimate.low), abs(estimate.high)) <= settings.tolerance(pair.definition):
        return row
    if multiple_tests.differs(adjusted, settings.alpha) and not 0 <= loss <= margin:
        return replace(row, verdict="IMPROVED" if loss < 0 else "REGRESSION")
    if largest_loss < margin or estimate.low == estimate.high == 0:
        return row
    half = largest_loss - loss if loss <= margin else loss - min(worse * estimate.low, worse * estimate.high)
    return replace(row, verdict="INCONCLUSIVE", required_n=power.required_n(estimate, loss, half, margin))


def _seed_hint(pair: MetricPair) -> str:
    seeds = {r.identity.seed for r in pair.before} - {None}
    if 0 < len(seeds) < 3 and not pair.counted:
        return f"{amount(len(seeds), 'calibration seed')}: use 5 for less noise"
    return ""


def _check_reproduction(pair: MetricPair, settings: CompareSettings) -> Row:
    """Judge a number of the same key and machine. It must be the same, whatever the margin."""
    change = mean_change(pair)
    within = abs(change) <= settings.tolerance(pair.definition)
    worse = change * (1 if pair.better == "lower" else -1) > 0
    if within:
        return _row(pair, "OK", "same key: reproduced" if change else "")
    reason = f"same key, different number ({change:+.2g}): not reproduced"
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
        pair.definition.is_ratio,
        pair.better,
        records=pair.after,
        **fields,
    )


def _unpaired_row(unpaired: Unpaired) -> Row:
    return Row(unpaired.name, unpaired.metric, unpaired.verdict, unpaired.reason, records=unpaired.records)
