"""From estimates to verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.compare.estimate import NotComparable, estimate_pair, mean_change, mean_values
from bench.compare.pairing import Pair, Unpaired, pair_results
from bench.compare.result_set import ResultSet, gc_paused
from bench.compare.settings import CompareSettings
from bench.results import metrics
from bench.results.record import Record
from bench.stats import multiple_tests, power
from bench.stats.bootstrap import Estimate

FAILING_VERDICTS = ("REGRESSION", "NEW_FAILURE", "MISSING")
VERDICTS = (*FAILING_VERDICTS, "INCONCLUSIVE", "NOT_COMPARABLE", "FIXED", "IMPROVED", "OK")
"""Worst first."""
MARKS = {"REGRESSION": "+", "IMPROVED": "-", "OK": "", "INCONCLUSIVE": "~", "NOT_COMPARABLE": "x"}
"""asv's marks, by which worse is + and better is -; ! is a failure."""


@dataclass(frozen=True)
class Row:
    """One judged number."""

    name: str
    metric: str
    verdict: str
    reason: str = ""
    before: float | None = None
    after: float | None = None
    unit: str = ""
    ratio: bool = False
    """Is the estimate one of ln(after / before)?"""
    better: str = ""
    estimate: Estimate | None = None
    adjusted: float | None = None
    """p over the whole family."""
    margin: float | None = None
    needed: tuple[int, str] | None = None
    records: tuple[Record, ...] = ()

    @property
    def effect(self) -> tuple[float, float, float] | None:
        """Ratio or difference, with its interval."""
        if self.estimate is None:
            return None
        e = (self.estimate.value, self.estimate.low, self.estimate.high)
        return (math.exp(e[0]), math.exp(e[1]), math.exp(e[2])) if self.ratio else e

    @property
    def mark(self) -> str:
        return MARKS.get(self.verdict, "!")


@dataclass(frozen=True)
class Comparison:
    """A gate's outcome. level: of each interval shown; family: tests that were adjusted together."""

    rows: tuple[Row, ...]
    rules: CompareSettings
    family: int
    level: float
    new: int = 0
    unjudged: tuple[str, ...] = ()
    """Metrics that no margin was set for."""

    @property
    def failed(self) -> tuple[Row, ...]:
        bad = (*FAILING_VERDICTS, "INCONCLUSIVE") if self.rules.strict else FAILING_VERDICTS
        return tuple(r for r in self.rows if r.verdict in bad)

    def count(self) -> dict[str, int]:
        return {v: n for v in VERDICTS if (n := sum(r.verdict == v for r in self.rows))}


@gc_paused()
def compare(
    before: ResultSet,
    after: ResultSet,
    rules: CompareSettings,
    *,
    without: tuple[str, ...] = (),
    exploratory: bool = False,
) -> Comparison:
    """Every number of `before` against `after`.

    Holm's p over all that is sampled, and Bonferroni's intervals; exploratory: Benjamini and Hochberg's, and each
    interval on its own. Counted numbers and those that only had to be reproduced are no tests, and not in the family.

    Raises:
        UserError: scores that cannot be read.
    """
    pairs, findings, new = pair_results(before, after, without, shared=exploratory)
    told = [p for p in pairs if (exploratory and p.definition.in_tables) or rules.margin(p.definition) is not None]
    skipped = sorted({p.metric for p in pairs} - {p.metric for p in told})
    rows = [_unpaired_row(f) for f in findings if _matters(f, rules)]
    open_: list[Pair] = []
    for pair in told:
        if reason := pair.obstacle():
            rows.append(_row(pair, "NOT_COMPARABLE", reason))
        elif pair.same_key and not pair.definition.is_time and not pair.counted:
            rows.append(_check_reproduction(pair, rules))
        else:
            open_.append(pair)
    sampled = sum(not p.counted for p in open_)
    level = rules.alpha if exploratory else multiple_tests.bonferroni(rules.alpha, sampled)
    measured: list[tuple[Pair, Estimate]] = []
    for pair in open_:
        try:
            found = estimate_pair(pair, before, after, level, rules.noise(pair.definition))
            measured.append((pair, found))
        except NotComparable as fault:
            rows.append(_row(pair, "NOT_COMPARABLE", str(fault)))
    rows += _decide_all(measured, rules, exploratory)
    rows.sort(key=lambda r: (VERDICTS.index(r.verdict), r.name, r.metric))
    return Comparison(tuple(rows), rules, sampled, level, new, tuple(skipped))


def _matters(finding: Unpaired, rules: CompareSettings) -> bool:
    """A metric that is gone matters if it has a margin; a whole cell always does."""
    return (
        finding.reason != "the measure no longer reports it" or rules.margin(metrics.find(finding.metric)) is not None
    )


def _decide_all(measured: Sequence[tuple[Pair, Estimate]], rules: CompareSettings, exploratory: bool) -> Iterable[Row]:
    adjust = multiple_tests.benjamini_hochberg if exploratory else multiple_tests.holm
    sampled = [i for i, (pair, _) in enumerate(measured) if not pair.counted]
    adjusted = dict(zip(sampled, adjust([measured[i][1].p for i in sampled]), strict=True))
    for i, (pair, estimate) in enumerate(measured):
        yield decide(pair, estimate, adjusted.get(i, estimate.p), rules)


def decide(pair: Pair, estimate: Estimate, adjusted: float, rules: CompareSettings) -> Row:
    """REGRESSION, OK, IMPROVED or INCONCLUSIVE; a metric without a margin is judged as if any loss were too much.

    Sums in another order are no change, however sure it is: what lies within the tolerance of a reproduction is OK.
    """
    given = rules.margin(pair.definition) or 0.0
    margin = math.log1p(given) if pair.definition.is_ratio else given
    worse = 1.0 if pair.better == "lower" else -1.0
    loss, most = worse * estimate.value, max(worse * estimate.low, worse * estimate.high)
    row = _row(pair, "OK", _seed_hint(pair), estimate=estimate, adjusted=adjusted, margin=given)
    if pair.counted:
        verdict = "REGRESSION" if loss > margin else "IMPROVED" if -loss > margin else "OK"
        return replace(row, verdict=verdict)
    if max(abs(estimate.low), abs(estimate.high)) <= rules.tolerance(pair.definition):
        return row
    if most < 0:
        return replace(row, verdict="IMPROVED")
    if loss > margin and adjusted < rules.alpha:
        return replace(row, verdict="REGRESSION")
    if most < margin or estimate.low == estimate.high == 0:
        return row
    half = most - loss if loss <= margin else loss - min(worse * estimate.low, worse * estimate.high)
    return replace(row, verdict="INCONCLUSIVE", needed=power.required_n(estimate, loss, half, margin))


def _seed_hint(pair: Pair) -> str:
    seeds = {r.identity.seed for r in pair.before} - {None}
    if 0 < len(seeds) < 3 and not pair.counted:
        return f"{len(seeds)} calibration seed{'s' if len(seeds) > 1 else ''}: 5 say more"
    return ""


def _check_reproduction(pair: Pair, rules: CompareSettings) -> Row:
    """The same key on the same machine: the number has to come out again, whatever the margin."""
    moved = mean_change(pair)
    within = abs(moved) <= rules.tolerance(pair.definition)
    worse = moved * (1 if pair.better == "lower" else -1) > 0
    if within:
        return _row(pair, "OK", "same key: reproduced" if moved else "")
    return _row(pair, "REGRESSION" if worse else "IMPROVED", f"same key, another number ({moved:+.2g}): not reproduced")


def _row(pair: Pair, verdict: str, reason: str = "", **fields: Any) -> Row:
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


def _unpaired_row(finding: Unpaired) -> Row:
    return Row(finding.name, finding.metric, finding.verdict, finding.reason, records=finding.records)
