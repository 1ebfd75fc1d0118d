"""Pair the numbers of two result sets by identity. Explain numbers without a pair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

from bench.comparing.result_set import ResultSet
from bench.results import metrics
from bench.results.identity import IdentityKey
from bench.results.record import ReadingRow, Record
from methods.contract.errors import UserError
from methods.contract.measure_info import Metric

Seeds = dict[int | None, Record]
"""Records of one identity by seed. The seed is None for a method without seeds."""

NOT_REPORTED = "the measure no longer reports it"
FAILED = ("failed", "diverged")
NUMBERED = ("answers",)
"""Measures whose items are numbers of questions, so that the digest of the data alone tells them
apart."""
DIGEST_LENGTH = 64


@dataclass(frozen=True)
class MetricPair:
    """A metric of one identity, before and after, with a record for each seed."""

    name: str
    metric: str
    before: tuple[Record, ...]
    after: tuple[Record, ...]

    @cached_property
    def readings(self) -> tuple[list[ReadingRow], list[ReadingRow]]:
        """Return the metric's readings, before and after, one for each seed."""
        return self._readings_of(self.before), self._readings_of(self.after)

    def _readings_of(self, records: Iterable[Record]) -> list[ReadingRow]:
        return [r for record in records for r in record.readings if r.metric == self.metric]

    @property
    def better(self) -> str:
        return self.readings[0][0].better

    @property
    def unit(self) -> str:
        return self.readings[0][0].unit

    @cached_property
    def definition(self) -> Metric:
        return metrics.find(self.metric, self.unit)

    @cached_property
    def is_ratio(self) -> bool:
        """Return whether the change is a ratio: that of a metric with ratios, if no value is 0."""
        return self.definition.is_ratio and all(
            r.value is None or r.value > 0 for side in self.readings for r in side
        )

    @property
    def counted(self) -> bool:
        """Return whether the number is exact: it was counted, or is of no items and has no standard
        error."""
        reading = self.readings[0][0]
        sampled = (
            self.before[0].items is not None or reading.stderr is not None or reading.n is not None
        )
        return self.definition.counted or not (sampled or self.definition.sampled)

    @property
    def same_key(self) -> bool:
        """Return whether weights, data, code, machine and libraries are the same. The numbers
        should be equal then.

        Machines are the same if their CPUs have the same model and instruction set. Names do not
        count.
        """
        return all(
            a.key == b.key and machine_of(a) == machine_of(b) and a.versions == b.versions
            for a, b in zip(self.before, self.after, strict=True)
        )

    @cached_property
    def same_draws(self) -> bool:
        """Return whether several seeds were run, and each drew the same text on both sides.

        The noise between seeds is then that of the differences, which the pair itself shows.
        """
        both = list(zip(self.before, self.after, strict=True))
        return len(both) > 1 and all(_draw_of(a) and _draw_of(a) == _draw_of(b) for a, b in both)

    def obstacle(self) -> str:
        """Return the reason why the two cannot be compared, or "" if they can."""
        for a, b in zip(self.before, self.after, strict=True):
            reason = a.reason or b.reason
            if reason:
                return reason
            if a.token_digest != b.token_digest:
                return "measured on different tokens"
            what = another_source(a, b)
            if what:
                return what
            if self.definition.is_time and _hardware(a) != _hardware(b):
                return f"different hardware: {_hardware(a)}, now {_hardware(b)}"
        was, now = self.readings
        if not len(was) == len(now) == len(self.before) or any(
            r.value is None for r in (*was, *now)
        ):
            return "no value on one side"
        if was[0].unit != now[0].unit or was[0].better != now[0].better:
            return "the metric's unit or direction has changed"
        return ""


@dataclass(frozen=True)
class Unpaired:
    """An identity without a pair, and the reason."""

    name: str
    metric: str
    verdict: str
    reason: str
    records: tuple[Record, ...] = ()
    unit: str = ""


def _draw_of(record: Record) -> tuple[Any, ...] | None:
    """Return the digests and sizes of the calibration and training text, and the seed that draws
    from them. None: the row has no seed, or its record does not hold the digests."""
    inputs = record.key_inputs
    texts = inputs.get("calibration"), inputs.get("training")
    drawn = [text for text in texts if text]
    if record.identity.seed is None or not drawn or not all(text.get("content") for text in drawn):
        return None
    return (record.identity.seed, *texts)


def machine_of(record: Record) -> tuple[Any, ...]:
    """Return what decides rounding on a machine."""
    return tuple(record.machine.get(k) for k in ("cpu", "cpu_model", "isa", "device"))


def another_source(a: Record, b: Record) -> str:
    """Return what has one name and another content in two records, or "". Imported records hold no
    digests."""
    was, now = a.key_inputs, b.key_inputs
    if a.identity.model == b.identity.model and _differ(was.get("model"), now.get("model")):
        return f"the weights of {a.identity.model} are others"
    same_task = a.identity.measure in NUMBERED and a.identity.protocol == b.identity.protocol
    before, after = was.get("measure") or {}, now.get("measure") or {}
    if same_task and _differ(before.get("content"), after.get("content")):
        return "the task's questions are others"
    return ""


def kind_of(seeds: Seeds, metric: str) -> tuple[Any, ...] | None:
    """Return what two rows of equal kinds share: nothing keeps their numbers of a metric apart.
    None: only `MetricPair.obstacle` tells."""
    kind: list[Any] = []
    for seed in sorted(seeds, key=order):
        record = seeds[seed]
        identity, inputs = record.identity, record.key_inputs
        readings = [reading for reading in record.readings if reading.metric == metric]
        has_value = [reading.value is not None for reading in readings] == [True]
        if record.status != "ok" or record.reason or record.items is None or not has_value:
            return None
        unit, better = readings[0].unit, readings[0].better
        if not better:
            return None
        kind += [seed, record.token_digest, unit, better, identity.model, inputs.get("model")]
        if identity.measure in NUMBERED:
            kind += [identity.protocol, (inputs.get("measure") or {}).get("content")]
        if metrics.find(metric, unit).is_time:
            kind.append(_hardware(record))
    return tuple(kind)


def _differ(a: Any, b: Any) -> bool:
    """Return whether two values are different digests."""
    return _is_digest(a) and _is_digest(b) and a != b


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == DIGEST_LENGTH


def _hardware(record: Record) -> str:
    return str(record.key_inputs.get("hardware") or record.processor or "unknown")


def group_by_identity(
    records: Iterable[Record], ignore: tuple[str, ...] = ()
) -> dict[IdentityKey, Seeds]:
    """Group records by identity, then by seed, which may occur once. ignore: columns of an identity
    that do not count."""
    out: dict[IdentityKey, Seeds] = {}
    for record in records:
        seeds = out.setdefault(record.identity.key("seed", *ignore), {})
        other = seeds.get(record.identity.seed)
        if other:
            raise UserError(_describe_clash(other, record))
        seeds[record.identity.seed] = record
    return out


def _describe_clash(a: Record, b: Record) -> str:
    was, now = a.identity.labels(), b.identity.labels()
    differing = [
        f"{column} {was[column]} and {now[column]}" for column in was if was[column] != now[column]
    ]
    return (
        f"records {a.short_key} and {b.short_key} are of one row, and differ in "
        f"{', '.join(differing) or 'no column'}: compare one of them by its key instead (bench ls "
        "runs)"
    )


def pair_results(
    before: ResultSet, after: ResultSet, ignore: tuple[str, ...], *, common_seeds: bool
) -> tuple[list[MetricPair], list[Unpaired], int]:
    """Return pairs, identities without a pair, and the number of new identities.

    ignore: columns of an identity in which the numbers of a pair may differ. common_seeds: leave
    out seeds that only one side has, instead of calling them missing.
    """
    old, new = group_by_identity(before.records, ignore), group_by_identity(after.records, ignore)
    names = short_names(old | new, ignore)
    pairs: list[MetricPair] = []
    unpaired: list[Unpaired] = []
    by_text: dict[tuple[IdentityKey, str], Seeds] = {}
    for key, now in new.items():
        by_text.setdefault(_text_key(key, now), now)
    for key, was in old.items():
        if key in new:
            name = names[key] + _pattern_change(was, new[key])
            some, others = pair_seeds(name, was, new[key], common_seeds)
            pairs += some
            unpaired += others
        else:
            unpaired.append(_explain_absence(names[key], was, by_text.get(_text_key(key, was))))
    only_new = [key for key in new if key not in old]
    for key in only_new:
        bad = [r for r in new[key].values() if r.status in FAILED]
        if bad:
            unpaired.append(_new_failure(names[key], bad[0].identity.measure, bad))
    return pairs, unpaired, len(only_new)


def _new_failure(name: str, measure: str, bad: list[Record]) -> Unpaired:
    return Unpaired(name, measure, "NEW_FAILURE", _failure_reason(bad), tuple(bad))


def _pattern_change(was: Seeds, now: Seeds) -> str:
    """Return the two patterns of a pair, to follow its name, or "" if they are the same."""
    before, after = _first(was).identity.pattern, _first(now).identity.pattern
    return f" ({before} → {after})" if before != after else ""


def _first(seeds: Seeds) -> Record:
    return next(iter(seeds.values()))


def pair_seeds(
    name: str, was: Seeds, now: Seeds, common_seeds: bool
) -> tuple[list[MetricPair], list[Unpaired]]:
    """Return a pair for each metric of one identity, or the reasons for none. common_seeds: as in
    pair_results."""
    good = {s: r for s, r in was.items() if r.status == "ok"}
    unpaired = []
    measure = _first(was).identity.measure
    without = [s for s, r in was.items() if r.status != "ok"]
    fixed = [s for s in without if _has_number(_matches(now, s))]
    if fixed:
        unpaired.append(
            Unpaired(name, measure, "FIXED", f"{was[fixed[0]].status} before{list_seeds(fixed)}")
        )
    elif not good:
        failed = [r for r in now.values() if r.status in FAILED]
        if failed and not any(r.status in FAILED for r in was.values()):
            unpaired.append(_new_failure(name, measure, failed))
        else:
            reason = f"{_first(was).status} before, too"
            unpaired.append(Unpaired(name, measure, "NO_BASELINE", reason))
    if not good:
        return [], unpaired
    matches = {s: _matches(now, s) for s in sorted(good, key=order)}
    if common_seeds and any(matches.values()):
        matches = {s: records for s, records in matches.items() if records}
    paired = list(chain.from_iterable(matches.values()))
    still = [
        s for s, r in was.items() if r.status in FAILED and s in now and now[s].status in FAILED
    ]
    if still:
        unpaired.append(
            Unpaired(name, measure, "NO_BASELINE", f"failed before, too{list_seeds(still)}")
        )
    bad = [r for r in paired if r.status in FAILED]
    if not common_seeds:
        seen = {id(r) for r in paired}
        others = [r for s, r in now.items() if s not in still and id(r) not in seen]
        bad += [r for r in others if r.status in FAILED]
    if bad:
        return [], [*unpaired, _new_failure(name, measure, bad)]
    missing = [s for s, records in matches.items() if not _has_number(records)]
    if missing:
        skipped = list(chain.from_iterable(matches[s] for s in missing))
        reason = f"not measured{list_seeds(missing)}"
        if skipped:
            reason = f"skipped: {skipped[0].reason}"
        return [], [*unpaired, Unpaired(name, measure, "MISSING", reason)]
    both = [(good[s], r) for s, records in matches.items() for r in records]
    first, other = both[0]
    reported = {r.metric for r in other.readings}
    for reading in first.readings:
        if reading.metric not in reported:
            unpaired.append(
                Unpaired(name, reading.metric, "MISSING", NOT_REPORTED, unit=reading.unit)
            )
    befores, afters = zip(*both, strict=True)
    pairs = [
        MetricPair(name, r.metric, befores, afters)
        for r in first.readings
        if r.metric in reported and r.better
    ]
    return pairs, unpaired


def _has_number(records: Iterable[Record]) -> bool:
    return any(record.status == "ok" for record in records)


def _matches(records: Mapping[int | None, Record], seed: int | None) -> list[Record]:
    """Return the records that a seed is paired with: those of the same seed, or all for a row
    without seeds."""
    if seed is None:
        # Draws of an interval depend on the order of seeds.
        return [records[s] for s in sorted(records, key=order)]
    record = records.get(seed, records.get(None))
    return [record] if record else []


def order(seed: int | None) -> int:
    """Return the sort key of a seed."""
    return -1 if seed is None else seed


def _text_key(key: IdentityKey, seeds: Seeds) -> tuple[IdentityKey, str]:
    """Return a key that identities of one text or task share, whatever the protocol."""
    rest = tuple((column, text) for column, text in key if column != "protocol")
    return rest, _first(seeds).identity.protocol.name


def _explain_absence(name: str, was: Seeds, other: Seeds | None) -> Unpaired:
    """Explain a missing identity: not measured, or only as `other`, with another protocol on the
    same text or task."""
    measure = _first(was).identity.measure
    if other:
        before, after = _first(was).identity.protocol, _first(other).identity.protocol
        reason = f"different protocol: {before.label}, now {after.label}"
        return Unpaired(name, measure, "NOT_COMPARABLE", reason)
    if all(r.status != "ok" for r in was.values()):
        return Unpaired(name, measure, "NO_BASELINE", "no result before, and not measured now")
    return Unpaired(name, measure, "MISSING", "not measured")


def _failure_reason(bad: list[Record]) -> str:
    return f"{bad[0].reason or bad[0].status}" + list_seeds([r.identity.seed for r in bad])


def list_seeds(seeds: Iterable[int | None]) -> str:
    """Return the seeds, to follow a name or a reason, or "" for a method without seeds."""
    numbers = [str(s) for s in seeds if s is not None]
    return f" (seed {', '.join(numbers)})" if numbers else ""


def short_names(
    identities: Iterable[IdentityKey], ignore: tuple[str, ...]
) -> dict[IdentityKey, str]:
    """Return a short name for each identity, and longer names for two that would be the same."""
    identities = list(identities)
    short = ("model", "method", "pattern", "quantizer", "protocol")
    rest = ("measure", "dtype", "device", "training", "calibration", "targets")
    by_name: dict[str, list[IdentityKey]] = {}
    for key in identities:
        about = {k: v for k, v in key if not (k == "quantizer" and v == "none") and k not in ignore}
        if about.get("pattern") == about.get("method"):  # as dense names its pattern
            about.pop("pattern", None)
        parts = [str(about[k]) for k in short if about.get(k)]
        by_name.setdefault(" ".join(parts), []).append(key)
    out = {}
    for name, keys in by_name.items():
        labels = [dict(key) for key in keys]
        differing = []
        for column in rest:
            if len({own.get(column) for own in labels}) > 1:
                differing.append(column)
        for key, own in zip(keys, labels, strict=True):
            out[key] = " ".join([name, *(str(own.get(column)) for column in differing)])
    return out
