"""Noise between calibration seeds of a kind of row on a model: from its rows with several seeds, or
from published rows of other models."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from importlib import resources
from typing import Any, NamedTuple

from bench.comparing.pairing import MetricPair
from bench.results import metrics
from bench.results.identity import Identity, IdentityKey, Protocol
from bench.results.record import Record
from bench.stats.bootstrap import satterthwaite
from bench.stats.seed_noise import ModeratedNoise, SeedNoise, moderate, pool
from bench.system.grouping import group_by
from bench.system.text import amount
from methods.contract.measure_info import Metric

ONE_SHOT, TRAINED, TRANSFORMED, DESTROYED = "one-shot", "trained", "transformed", "destroyed"
EXPERTS = "experts"
GROUPED = {ONE_SHOT, EXPERTS}
"""Kinds of rows whose noise depends on the method and the pattern."""
UNROUNDED = {ONE_SHOT, TRAINED, TRANSFORMED, DESTROYED, EXPERTS}
"""Kinds of rows but for those of dense weights that are only rounded, whose kind is their bits per
weight."""
DESTROYED_FROM = 100.0
"""Perplexity, over the least of the model and protocol, from which a row is destroyed: its draws
differ by whole factors."""
MIN_FREEDOM, MIN_OWN_FREEDOM = 2.0, 8.0
"""Fewest degrees of freedom of a kind of row, and of its rows under one protocol, which are taken
alone from there on. With fewer than the first, rows of other kinds are pooled: first of rounded
dense weights of any bits, then of all rows of the model. Without such rows it is the published
noise of the kind, of one-shot rows if the kind has none."""

BITS, NATS_PER_BIT = "bits/byte", 4 * math.log(2)
"""A quantity whose noise is that of perplexity if no row shows it, and nats per token in a bit per
byte, at four bytes a token."""
PUBLISHED = "seed_noise.json"
"""Asset with the noise of a kind of row, of the model of results/ that has most. Made by
scripts/seed_noise.py."""


class RowNoise(NamedTuple):
    """The noise between the seeds of a row."""

    kind: str
    group: str
    """Method and pattern."""
    noise: SeedNoise
    """Mean over the row's protocols."""
    by_protocol: dict[Protocol, SeedNoise]


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
        self.known: dict[tuple[str, str, str, Protocol | None, str], KnownNoise] = {}
        self.of_identity: dict[tuple[Identity, str], KnownNoise] = {}
        self.moderated: dict[tuple[tuple[str, SeedNoise], ...], ModeratedNoise] = {}

    def of_pair(self, pair: MetricPair) -> KnownNoise | None:
        """Return the noise of the difference of two numbers, or None if there is none.

        The variances of both sides add up, because two methods need not react to a draw in the same
        way. Of a mean over seeds it is that of one seed, divided by their number.
        """
        if pair.counted or not pair.definition.sampled:
            return None
        sides = [one for one, *_ in (pair.before, pair.after) if one.identity.seed is not None]
        found = [self.of_record(one, pair.definition) for one in sides]
        return self.of_difference(found, len(pair.before))

    def of_difference(self, found: Sequence[KnownNoise], seeds: int) -> KnownNoise | None:
        """Return the noise of the difference of two numbers, each a mean over this many seeds.
        found: that of the rows with seeds."""
        if not any(one.noise.variance for one in found):
            return None
        if len(set(found)) == 1:  # one estimate, used twice, has the degrees of freedom of one
            total = SeedNoise(len(found) * found[0].noise.variance, found[0].noise.freedom)
        else:
            parts = [(one.noise.variance, one.noise.freedom) for one in found]
            total = SeedNoise(sum(variance for variance, _ in parts), satterthwaite(parts))
        mean = SeedNoise(total.variance / seeds, total.freedom)
        return KnownNoise(mean, "; ".join(dict.fromkeys(one.source for one in found)))

    def kind_of(self, record: Record) -> str:
        """Return the kind of a record's row: rows of a kind are assumed to have the same noise.

        Draws of weights of 3 bits differ several times as much as those of 4 bits, so bits make a
        kind. So do experts: another draw removes another whole expert.
        """
        identity = record.identity
        if _row(record) in self._destroyed:
            return DESTROYED
        if identity.pattern.startswith(EXPERTS):
            return EXPERTS
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

    def of_record(self, record: Record, metric: Metric) -> KnownNoise:
        """Return the noise between seeds of a record's row."""
        identity = record.identity
        key = (identity, metric.name)
        if key not in self.of_identity:
            kind = self.kind_of(record)
            self.of_identity[key] = self.of(
                identity.model, kind, metric, identity.protocol, group_of(record)
            )
        return self.of_identity[key]

    def of(
        self,
        model: str,
        kind: str,
        metric: Metric,
        protocol: Protocol | None = None,
        group: str = "",
    ) -> KnownNoise:
        """Return the noise of a kind of row, under this protocol if enough rows have seeds there.

        group: method and pattern, by which one-shot rows differ.
        """
        key = (model, kind, group if kind in GROUPED else "", protocol, metric.name)
        if key not in self.known:
            self.known[key] = self._find(model, kind, metric, protocol, group)
        return self.known[key]

    def _find(
        self, model: str, kind: str, metric: Metric, protocol: Protocol | None, group: str
    ) -> KnownNoise:
        if metric.name in self.given:
            return KnownNoise(SeedNoise(self.given[metric.name] ** 2), "as the settings say")
        rows = self._measured.get((model, metric.name), [])
        if not rows and metric.quantity == BITS:
            nats, source = self.of(model, kind, metrics.find("perplexity"), None, group)
            noise = SeedNoise(nats.variance / NATS_PER_BIT**2, nats.freedom)
            return KnownNoise(noise, f"perplexity's, at 4 bytes a token: {source}")
        own = [row for row in rows if row.kind == kind]
        same = []
        for row in own:
            if protocol in row.by_protocol:
                same.append(row._replace(noise=row.by_protocol[protocol]))
        rounded = [row for row in rows if {row.kind, kind}.isdisjoint(UNROUNDED)]
        every = [row for row in rows if row.kind != DESTROYED or kind == DESTROYED]
        for some, of, least in (
            (same, kind, MIN_OWN_FREEDOM),
            (own, kind, MIN_FREEDOM),
            (rounded, "dense", MIN_FREEDOM),
            (every, "other", MIN_FREEDOM),
        ):
            if not some:
                continue
            noise = pool(row.noise for row in some)
            if noise.freedom < least:
                continue
            source = f"from {amount(len(some), f'{of} row')} with seeds"
            if of not in GROUPED:
                return KnownNoise(noise, f"{kind} {_amount(noise, metric)} ({source})")
            moderated = self._moderate(some)
            every_group = moderated.groups.values()
            low, high = (_amount(f(every_group, key=_variance), metric) for f in (min, max))
            size = high if low == high else f"{low} to {high} by method and pattern"
            return KnownNoise(moderated.of(group), f"{kind} {size} ({source})")
        kinds = _read_published().get(metric.name, {})
        found = kinds.get(kind, kinds.get(ONE_SHOT))
        if found is None:
            noise = SeedNoise(metric.seed_noise**2)
            return KnownNoise(
                noise, f"{kind} {_amount(noise, metric)} (assumed, because too few rows have seeds)"
            )
        model, deviation, freedom = found["model"], found["deviation"], found["freedom"]
        noise = SeedNoise(deviation**2, freedom)
        return KnownNoise(noise, f"{kind} {_amount(noise, metric)} (published rows of {model})")

    def _moderate(self, rows: Sequence[RowNoise]) -> ModeratedNoise:
        """Return the noise by method and pattern, computed once for the same rows."""
        noises = tuple((row.group, row.noise) for row in rows)
        if noises not in self.moderated:
            self.moderated[noises] = pool_groups(rows)
        return self.moderated[noises]

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
    def _measured(self) -> dict[tuple[str, str], list[RowNoise]]:
        """Return the noise of each row with several seeds, by model and metric.

        A row that was measured under several protocols counts once, with the mean of its variances.
        """
        rows: dict[tuple[IdentityKey, str], dict[Protocol, list[float]]] = {}
        records: dict[IdentityKey, Record] = {}
        for record in self.records:
            if record.status != "ok" or record.identity.seed is None:
                continue
            row = _row(record)
            records[row] = record
            for reading in record.readings:
                metric = metrics.find(reading.metric, reading.unit)
                if reading.value is not None and metric.sampled:
                    value = math.log(reading.value) if metric.is_ratio else reading.value
                    by_protocol = rows.setdefault((row, metric.name), {})
                    by_protocol.setdefault(record.identity.protocol, []).append(value)
        out: dict[tuple[str, str], list[RowNoise]] = {}
        for (row, name), by_protocol in rows.items():
            noises = {
                protocol: SeedNoise(statistics.variance(numbers), len(numbers) - 1)
                for protocol, numbers in by_protocol.items()
                if len(numbers) > 1
            }
            if noises:
                mean = statistics.fmean(noise.variance for noise in noises.values())
                freedom = max(noise.freedom for noise in noises.values())
                record = records[row]
                found = RowNoise(
                    self.kind_of(record), group_of(record), SeedNoise(mean, freedom), noises
                )
                out.setdefault((record.identity.model, name), []).append(found)
        return out

    def strongest(self) -> dict[str, dict[str, tuple[str, SeedNoise]]]:
        """Return for each metric and kind of row the model with the most noise, and the noise of a
        method and pattern without seeds."""
        out: dict[str, dict[str, tuple[str, SeedNoise]]] = {}
        for (model, metric), rows in sorted(self._measured.items()):
            for kind in sorted({row.kind for row in rows}):
                noise = pool_groups(row for row in rows if row.kind == kind).other
                of_metric = out.setdefault(metric, {})
                _, most = of_metric.get(kind, ("", SeedNoise(0.0)))
                if noise.freedom >= MIN_FREEDOM and noise.variance > most.variance:
                    of_metric[kind] = (model, noise)
        return out


def group_of(record: Record) -> str:
    """Return the method and pattern of a record, by which draws of one-shot rows differ."""
    return f"{record.identity.method} {record.identity.pattern}"


def pool_groups(rows: Iterable[RowNoise]) -> ModeratedNoise:
    """Return the noise of each method and pattern."""
    groups = group_by(rows, lambda row: row.group)
    return moderate({name: pool(row.noise for row in own) for name, own in groups.items()})


@cache
def _read_published() -> dict[str, dict[str, dict[str, Any]]]:
    text = resources.files("bench").joinpath("assets", PUBLISHED).read_text(encoding="utf-8")
    published: dict[str, dict[str, dict[str, Any]]] = json.loads(text)
    return published


def _variance(noise: SeedNoise) -> float:
    return noise.variance


def _row(record: Record) -> IdentityKey:
    return record.identity.key("seed", "measure", "protocol")


def _amount(noise: SeedNoise, metric: Metric) -> str:
    if metric.is_ratio:
        return f"{100 * noise.deviation:.2g}%"
    if metric.quantity == "proportion":
        return f"{100 * noise.deviation:.2g} pp"
    return f"{noise.deviation:.2g} {metric.unit}"
