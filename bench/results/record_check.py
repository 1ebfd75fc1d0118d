"""The verification of a record. Every reader and writer of records calls this one function."""

from __future__ import annotations

from typing import NamedTuple

from bench.catalog import metric_owners
from bench.results import metrics
from bench.results.consistency import contradictions
from bench.results.derive import REDUCERS, Derived, Items, derive, derive_own, differences
from bench.results.record import Record
from methods.contract.errors import UserError, first_line
from methods.contract.measure_info import Metric

DECIDES_NO_NUMBER = True

FAULTS = (TypeError, AttributeError, LookupError, ValueError, ArithmeticError, RecursionError)
"""What values of another shape raise."""


class Evidence(NamedTuple):
    """What a record's numbers rest on."""

    items: Items | None
    derived: dict[str, Derived]
    """What the items give, by metric."""


def check_record(record: Record, items: Items | None, *, dropped: bool = False) -> Evidence:
    """Return what a record's items give. Raise UserError if the record contradicts itself or its
    items, or lacks the items from which a number follows.

    dropped: whether counted numbers may lack their items, as in a baseline, whose digest covers
    them.
    """
    try:
        wrong = next(contradictions(record), "")
    except FAULTS as fault:
        wrong = f"its key_inputs have another shape ({type(fault).__name__}: {fault})"
    if wrong:
        raise UserError(f"record {record.short_key} contradicts itself: {wrong}")
    derived: dict[str, Derived] = {}
    try:
        if items is not None:
            derived = _derive(record, items)
    except FAULTS as fault:
        raise UserError(
            f"the items of record {record.short_key} have other values than numbers "
            f"({first_line(fault)[:80]}): measure it again"
        ) from None
    for reading in record.readings:
        metric = metrics.find(reading.metric)
        is_carried = dropped and metric.counted
        if reading.value is None or reading.metric in derived or is_carried:
            continue
        follows = metric.aggregation in REDUCERS or (metric.aggregation == "own" and items is None)
        if follows:
            raise UserError(
                f"record {record.short_key} has no items from which its {reading.metric} follows: "
                "measure it again"
            )
    return Evidence(items, derived)


def _derive(record: Record, items: Items) -> dict[str, Derived]:
    """Return what the items give. Raise UserError if they are not those of the record."""
    assert record.items is not None
    wrong = ""
    if len(items.ids) != record.items.rows:
        wrong = f"there are {len(items.ids):,}, not {record.items.rows:,}"
    elif len(set(items.ids)) != len(items.ids):
        wrong = "one is there twice"
    derived = {}
    for reading, found in derive(record, items):
        derived[reading.metric] = found
        wrong = wrong or next(differences(reading, found), "")
    left_out = _find_left_out(record, items)
    if left_out and not wrong:
        wrong = f"they give {left_out}, which the record leaves out"
    if wrong:
        raise UserError(
            f"the items of record {record.short_key} are not its own: {wrong}: measure it again"
        )
    return derived


def _find_left_out(record: Record, items: Items) -> str:
    """Return what the items give and no reading states, or "". Another version of a plug-in may
    declare other metrics, so only ours count."""
    stated = {reading.metric for reading in record.readings}
    owned = metric_owners.built_in().values()
    known = [one.metric for one in owned if one.measure == record.identity.measure]
    for metric in known:
        if metric.name not in stated and _give(items, metric, record):
            return metric.name
    own = {metric.name for metric in known if metric.aggregation == "own"}
    means = {metric.name for metric in known if metric.aggregation not in ("", "own")}
    if means - items.columns.keys() and stated <= items.columns.keys() | own:
        return "the metric of their column 'value'"
    return ""


def _give(items: Items, metric: Metric, record: Record) -> bool:
    """Return whether items give a metric that a record does not state."""
    if metric.name in items.columns or metric.aggregation != "own":
        return metric.name in items.columns
    try:
        return derive_own(metric.name, record, items) is not None
    except LookupError:  # it rounds towards the number that is left out
        return metric.name == metrics.SIZE
