"""Tasks at the floor: a number that a guess reaches, too, is no evidence of a change."""

from __future__ import annotations

from collections.abc import Iterable

from bench.comparing.pairing import MetricPair
from bench.results import guessing, metrics
from bench.results.identity import Protocol
from bench.results.record import ReadingRow, Record

Asked = tuple[str, str, str, Protocol]
"""Model, dtype, device and protocol, which a row shares with its dense row."""


class Floors:
    """The dense rows of two result sets, which tell what a model can do of a task."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._dense: dict[Asked, list[Record]] = {}
        for record in records:
            if record.identity.method == "dense" and record.identity.quantizer == "none":
                self._dense.setdefault(_asked(record), []).append(record)

    def describe(self, pair: MetricPair) -> str:
        """Return why a pair is no evidence, or "".

        It is none if the dense model is at the floor, or else both sides of the pair. From the
        floor up, a change says something.
        """
        identity = pair.before[0].identity
        if identity.subject != "task":
            return ""
        task = identity.protocol.label
        for record in self._dense.get(_asked(pair.before[0]), ()):
            if found := _at_floor(record, pair.metric):
                return f"{task} is no evidence: the dense model is at the floor, with {found}"
        if all(_at_floor(record, pair.metric) for record in (*pair.before, *pair.after)):
            found = _at_floor(pair.before[0], pair.metric)
            return f"{task} is no evidence: both sides are at the floor, the first with {found}"
        return ""


def _asked(record: Record) -> Asked:
    identity = record.identity
    return identity.model, identity.dtype, identity.device, identity.protocol


def _at_floor(record: Record, metric: str) -> str:
    """Return the number of a record that is at the floor, with its floor, or ""."""
    guess = guessing.of_record(record)
    for reading in _judged(record, metric):
        value, n = reading.value, reading.n
        if value is None:
            continue
        above = guessing.is_above_floor(reading.metric, value, reading.stderr, n, guess)
        if above is False:
            is_share = metrics.find(reading.metric).quantity == "proportion"
            floor = guess.best if guess and is_share else 0.0
            return f"{reading.metric} {value:.3g} of {n:,} questions and a floor of {floor:.3g}"
    return ""


def _judged(record: Record, metric: str) -> list[ReadingRow]:
    """Return the readings with a floor that decide on a metric: its own, or those of the same
    quantity, as `ruler_gain` decides on `ruler_bits`. Proportions decide on themselves alone."""
    with_floor = [r for r in record.readings if metrics.find(r.metric).has_floor]
    quantity = metrics.find(metric).quantity
    own = [reading for reading in with_floor if reading.metric == metric]
    if own or quantity in ("", "proportion"):
        return own
    return [reading for reading in with_floor if metrics.find(reading.metric).quantity == quantity]
