"""Noise between calibration seeds of a kind of row on a model: from its rows with several seeds, or
assumed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

from bench.compare.pairing import MetricPair
from bench.results import metrics
from bench.results.identity import IdentityKey, Protocol
from bench.results.record import Record
from bench.stats.bootstrap import satterthwaite
from bench.stats.seed_noise import SeedNoise, pool
from bench.system.text import amount
from methods.contract.measure_info import Metric

ONE_SHOT, TRAINED, TRANSFORMED, DESTROYED = "one-shot", "trained", "transformed", "destroyed"
UNROUNDED = {ONE_SHOT, TRAINED, TRANSFORMED, DESTROYED}
"""Kinds of rows but for those of dense weights that are only rounded, whose kind is their bits per
weight."""
DESTROYED_FROM = 100.0
"""Perplexity, over the least of the model and protocol, from which a row is destroyed: its draws
differ by whole factors."""
MIN_FREEDOM, MIN_OWN_FREEDOM = 2.0, 8.0
"""Fewest degrees of freedom of a kind of row, and of its rows under one protocol, which are taken
alone from there on. With fewer than the first, rows of other kinds are pooled: first of rounded
dense weights of any bits, then of all rows of the model."""

Kind = tuple[str, str, Protocol | None, str]
"""Model, kind of row, protocol, metric."""
Noises = tuple[str, SeedNoise, dict[Protocol, SeedNoise]]
"""Kind of a row, and the noise between its seeds: the mean over its protocols, and by protocol."""


class KnownNoise(NamedTuple):
    """The noise of a kind of row, and where it comes from."""

    noise: SeedNoise
    source: str


class SeedNoiseTable:
    """Noise between seeds by model, kind of row and metric.

    records: the results whose rows with several seeds are used, one record for each identity.
    given: standard deviations by metric, which replace those of the records.
    """

    def __init__(self, records: Iterable[Record], given: Mapping[str, float] | None = None) -> None:
        self.records, self.given = tuple(records), given or {}
        self.known: dict[Kind, KnownNoise] = {}

    def of_pair(self, pair: MetricPair) -> KnownNoise | None:
        """Return the noise of the difference of two numbers, or None if there is none.

        The variances of both sides add up, because two methods need not react to a draw in the same
        way. Of a mean over seeds it is that of one seed, divided by their number.
        """
        if pair.counted or not pair.definition.sampled:
            return None
        sides = [one for one, *_ in (pair.before, pair.after) if one.identity.seed is not None]
        found = [
            self.of(one.identity.model, self.kind_of(one), pair.definition, one.identity.protocol)
            for one in sides
        ]
        if not any(one.noise.variance for one in found):
            return None
        if len(set(found)) == 1:  # one estimate, used twice, has the degrees of freedom of one
            total = SeedNoise(len(found) * found[0].noise.variance, found[0].noise.freedom)
        else:
            parts = [(one.noise.variance, one.noise.freedom) for one in found]
            total = SeedNoise(sum(variance for variance, _ in parts), satterthwaite(parts))
        mean = SeedNoise(total.variance / len(pair.before), total.freedom)
        return KnownNoise(mean, "; ".join(dict.fromkeys(one.source for one in found)))

    def kind_of(self, record: Record) -> str:
        """Return the kind of a record's row: rows of a kind are assumed to have the same noise.

        Draws of weights of 3 bits differ several times as much as those of 4 bits, so bits make a
        kind.
        """
        identity = record.identity
        if _row(record) in self._destroyed:
            return DESTROYED
        if identity.training is not None:
            return TRAINED
        if identity.pattern != "dense":
            return ONE_SHOT
        if identity.quantizer == "none":
            return TRANSFORMED
        bits = self._bits.get(_row(record))
        if bits is None:
            return "dense"
        return f"dense {bits:.0f}-bit"

    def of(
        self, model: str, kind: str, metric: Metric, protocol: Protocol | None = None
    ) -> KnownNoise:
        """Return the noise of a kind of row, under this protocol if enough rows have seeds
        there."""
        key = (model, kind, protocol, metric.name)
        if key not in self.known:
            self.known[key] = self._find(model, kind, metric, protocol)
        return self.known[key]

    def _find(self, model: str, kind: str, metric: Metric, protocol: Protocol | None) -> KnownNoise:
        if metric.name in self.given:
            return KnownNoise(SeedNoise(self.given[metric.name] ** 2), "as the settings say")
        rows = self._measured.get((model, metric.name), [])
        same = [noises[protocol] for of, _, noises in rows if of == kind and protocol in noises]
        own = [noise for of, noise, _ in rows if of == kind]
        rounded = [noise for of, noise, _ in rows if {of, kind}.isdisjoint(UNROUNDED)]
        every = [noise for of, noise, _ in rows if of != DESTROYED or kind == DESTROYED]
        for some, of, least in (
            (same, kind, MIN_OWN_FREEDOM),
            (own, kind, MIN_FREEDOM),
            (rounded, "dense", MIN_FREEDOM),
            (every, "other", MIN_FREEDOM),
        ):
            if not some:
                continue
            noise = pool(some)
            if noise.freedom >= least:
                source = f"from {amount(len(some), f'{of} row')} with seeds"
                return KnownNoise(noise, f"{kind} {_amount(noise, metric)} ({source})")
        noise = SeedNoise(metric.seed_noise**2)
        return KnownNoise(
            noise, f"{kind} {_amount(noise, metric)} (assumed, because too few rows have seeds)"
        )

    @cached_property
    def _destroyed(self) -> set[IdentityKey]:
        """Return the rows with more than DESTROYED_FROM times the least perplexity of their model
        and protocol."""
        found = []
        least: dict[tuple[str, Protocol], float] = {}
        for record, value in self._numbers("perplexity"):
            key = (record.identity.model, record.identity.protocol)
            found.append((record, key, value))
            least[key] = min(value, least.get(key, math.inf))
        return {_row(record) for record, key, value in found if value > DESTROYED_FROM * least[key]}

    @cached_property
    def _bits(self) -> dict[IdentityKey, float]:
        """Return the bits per weight of each row that has a size."""
        return {_row(record): value for record, value in self._numbers("bits_per_weight")}

    def _numbers(self, metric: str) -> Iterator[tuple[Record, float]]:
        """Yield each record that has a metric, and its number."""
        for record in self.records:
            yield from (
                (record, r.value)
                for r in record.readings
                if r.metric == metric and r.value is not None
            )

    @cached_property
    def _measured(self) -> dict[tuple[str, str], list[Noises]]:
        """Return kind and variances of each row with several seeds, by model and metric.

        A row that was measured under several protocols counts once, with the mean of its variances.
        """
        rows: dict[tuple[IdentityKey, str], dict[Protocol, list[float]]] = {}
        kinds: dict[IdentityKey, tuple[str, str]] = {}
        for record in self.records:
            if record.status != "ok" or record.identity.seed is None:
                continue
            row = _row(record)
            kinds[row] = record.identity.model, self.kind_of(record)
            for reading in record.readings:
                metric = metrics.find(reading.metric, reading.unit)
                if reading.value is not None and metric.sampled:
                    value = math.log(reading.value) if metric.is_ratio else reading.value
                    by_protocol = rows.setdefault((row, metric.name), {})
                    by_protocol.setdefault(record.identity.protocol, []).append(value)
        out: dict[tuple[str, str], list[Noises]] = {}
        for (row, name), by_protocol in rows.items():
            noises = {
                protocol: SeedNoise(statistics.variance(numbers), len(numbers) - 1)
                for protocol, numbers in by_protocol.items()
                if len(numbers) > 1
            }
            if noises:
                mean = statistics.fmean(noise.variance for noise in noises.values())
                model, kind = kinds[row]
                freedom = max(noise.freedom for noise in noises.values())
                out.setdefault((model, name), []).append((kind, SeedNoise(mean, freedom), noises))
        return out


def _row(record: Record) -> IdentityKey:
    return record.identity.key("seed", "measure", "protocol")


def _amount(noise: SeedNoise, metric: Metric) -> str:
    if metric.is_ratio:
        return f"{100 * noise.deviation:.2g}%"
    if metric.quantity == "proportion":
        return f"{100 * noise.deviation:.2g} pp"
    return f"{noise.deviation:.2g} {metric.unit}"
