"""Measure records again: suspected regressions before they are reported, and random records of
others, to compare the numbers."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.comparing.pairing import machine_of
from bench.comparing.result_arguments import read
from bench.comparing.result_set import ResultSet
from bench.comparing.verdict import Comparison
from bench.results import metrics
from bench.results.derive import Items
from bench.results.record import Record
from methods.contract.errors import UserError
from methods.contract.measure_info import Metric

SUSPECT_VERDICTS = ("REGRESSION", "NEW_FAILURE")


def rerun(
    after: ResultSet,
    comparison: Comparison,
    workdir: Path,
    measure: Callable[[Record, Path], Record],
    note: Callable[[str], None],
) -> ResultSet:
    """Return `after`, with suspected records measured again where possible. The results folder does
    not change.

    measure: runs a record's measurement and writes to an empty results folder. It raises UserError
    if it cannot.
    """
    suspects = {
        r.key: r for row in comparison.rows if row.verdict in SUSPECT_VERDICTS for r in row.records
    }
    by_key: dict[str, tuple[Record, ResultSet]] = {}
    for key, record in suspects.items():
        try:
            root = Path(tempfile.mkdtemp(prefix="again-", dir=workdir))
            new = measure(record, root)
            by_key[key] = (new, read(root))
            note(f"measured again: {record.short_key}, {new.status}")
        except UserError as fault:
            note(f"cannot measure again: {record.short_key} ({fault})")
    new_records = {key: record for key, (record, _) in by_key.items()}
    records = tuple(new_records.get(record.key, record) for record in after.records)
    sources = {id(record): results for record, results in by_key.values()}

    def items(record: Record) -> Items:
        return sources.get(id(record), after).items(record)

    return ResultSet(after.name, records, items)


@dataclass(frozen=True)
class Remeasured:
    """One record, measured again."""

    record: Record
    verdict: str
    """ "equal", "within tolerance", "differs" or "not measured"."""
    reason: str


def choose(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """Return `count` random records with a number, or raise UserError. The same folder and seed
    give the same records."""
    known = sorted((r for r in records if r.status == "ok"), key=lambda r: r.key)
    if count > len(known):
        raise UserError(
            f"--remeasure {count} is more than the {len(known)} records with a number: give at "
            "most that many"
        )
    return random.Random(seed).sample(known, count)


def remeasure(
    records: Sequence[Record],
    tolerance: float | None,
    measure: Callable[[Record, Path], Record],
    workdir: Path,
) -> Iterator[Remeasured]:
    """Measure each record again, and yield how it compares.

    tolerance: largest relative difference on another machine or of other code. None: the metric's
    margin. measure: runs a record's measurement into an empty results folder. It raises UserError
    if it cannot.
    """
    for record in records:
        try:
            new = measure(record, Path(tempfile.mkdtemp(prefix="again-", dir=workdir)))
        except UserError as fault:
            yield Remeasured(record, "not measured", str(fault))
        else:
            yield Remeasured(record, *_compare(record, new, tolerance))


def _compare(record: Record, new: Record, tolerance: float | None) -> tuple[str, str]:
    if new.status != record.status:
        verdict = "not measured" if new.status == "skipped" else "differs"
        return verdict, f"now {new.status}: {new.reason}"
    was = {reading.metric: reading for reading in record.readings}
    now = {reading.metric: reading for reading in new.readings}
    if was.keys() != now.keys():
        return "differs", f"it has {', '.join(was)}, now {', '.join(now)}"
    if record.token_digest != new.token_digest:
        return "differs", "it was measured on other tokens"
    same = (
        record.key == new.key
        and machine_of(record) == machine_of(new)
        and record.versions == new.versions
    )
    changes, worst = [], []
    for name, old in was.items():
        definition, other = metrics.find(name, old.unit), now[name]
        exact = same and not definition.is_time
        if old.n != other.n and not definition.is_time:
            return "differs", f"{name} is of {old.n} items, now of {other.n}"
        if old.value == other.value and (not exact or old == other):
            continue
        assert old.value is not None
        assert other.value is not None
        limit = tolerance_of(definition) if tolerance is None else tolerance
        if exact:
            limit = 0.0
        distance = _distance(old.value, other.value, definition)
        part = "" if distance else "standard error or n of "
        text = f"{part}{name} {old.value:.6g}, now {other.value:.6g}, tolerance {limit:.3g}"
        changes.append(text)
        if exact or distance > limit:
            worst.append(text)
    verdict = "within tolerance" if changes else "equal"
    if worst:
        verdict = "differs"
    why = "; ".join(worst or changes)
    if not same:
        why = f"{why} ({_difference(record, new)})".lstrip()
    return verdict, why


def tolerance_of(metric: Metric) -> float:
    """Return the largest difference of a metric between machines: its margin in a gate, or else
    1%."""
    margin = 0.01 if metric.margin is None else metric.margin
    return max(margin, metric.tolerance)


def _distance(was: float, now: float, metric: Metric) -> float:
    """Return the difference: relative to the first, or absolute for a proportion."""
    if metric.quantity == "proportion" or was == 0:
        return abs(now - was)
    return abs(now / was - 1)


def _difference(record: Record, new: Record) -> str:
    """Say what two records of one identity do not share."""
    if record.key != new.key:
        return "code or data differ"
    if machine_of(record) != machine_of(new):
        return "machines differ"
    return "libraries differ"
