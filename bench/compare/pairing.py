"""Joining two sides on identities: which numbers meet, and what stands in their way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bench.compare.result_set import ResultSet
from bench.results import metrics
from bench.results.identity import IdentityKey, Protocol
from bench.results.record import ReadingRow, Record

Seeds = dict[int | None, Record]


@dataclass(frozen=True)
class Pair:
    """One metric of one identity, before and after, seed by seed."""

    name: str
    metric: str
    before: tuple[Record, ...]
    after: tuple[Record, ...]

    @cached_property
    def readings(self) -> tuple[list[ReadingRow], list[ReadingRow]]:
        """Of the metric, a seed each."""
        sides = (self.before, self.after)
        was, now = ([r for s in side for r in s.readings if r.metric == self.metric] for side in sides)
        return was, now

    @property
    def better(self) -> str:
        return self.readings[0][0].better

    @property
    def unit(self) -> str:
        return self.readings[0][0].unit

    @property
    def definition(self) -> metrics.Metric:
        return metrics.find(self.metric, self.unit)

    @property
    def counted(self) -> bool:
        """Is there no noise to estimate?"""
        nothing_kept = self.before[0].items is None and self.readings[0][0].stderr is None
        return self.definition.counted or nothing_kept

    @property
    def same_key(self) -> bool:
        """Same weights, data and code on the same machine with the same libraries: only reproduction noise is left.

        A machine is the same if its CPU is of the same model and runs the same kernels, whatever it is called.
        """
        return all(
            a.key == b.key and machine(a) == machine(b) and a.provenance.get("versions") == b.provenance.get("versions")
            for a, b in zip(self.before, self.after, strict=True)
        )

    def obstacle(self) -> str:
        """Why the two cannot be compared; empty if they can."""
        for a, b in zip(self.before, self.after, strict=True):
            if a.token_digest != b.token_digest:
                return "measured on other tokens"
            if self.definition.is_time and hardware(a) != hardware(b):
                return f"other hardware: {hardware(a)}, now {hardware(b)}"
        was, now = self.readings
        if not len(was) == len(now) == len(self.before) or any(r.value is None for r in (*was, *now)):
            return "no value on one side"
        if was[0].unit != now[0].unit or was[0].better != now[0].better:
            return "the metric means something else now"
        return ""


@dataclass(frozen=True)
class Unpaired:
    """An identity that gives no pair, and why."""

    name: str
    metric: str
    verdict: str
    reason: str
    records: tuple[Record, ...] = ()


def machine(record: Record) -> Any:
    about = record.provenance.get("machine") or {}
    return tuple(about.get(k) for k in ("cpu", "cpu_model", "isa", "device"))


def hardware(record: Record) -> str:
    told = record.key_inputs.get("hardware")
    about = record.provenance.get("machine") or {}
    return str(told or about.get("device") or about.get("cpu") or "unknown")


def group_by_identity(records: Iterable[Record], without: tuple[str, ...] = ()) -> dict[IdentityKey, Seeds]:
    """Records by identity, seeds apart. without: what two sides need not share."""
    out: dict[IdentityKey, Seeds] = {}
    for record in records:
        out.setdefault(record.identity.key("seed", *without), {})[record.identity.seed] = record
    return out


def pair_results(
    before: ResultSet, after: ResultSet, without: tuple[str, ...] = (), *, shared: bool = False
) -> tuple[list[Pair], list[Unpaired], int]:
    """Pairs, what could not be paired, and how many identities are new. shared: seeds of one side alone are left out."""
    old, new = group_by_identity(before.records, without), group_by_identity(after.records, without)
    called = short_names(old | new, without)
    pairs: list[Pair] = []
    findings: list[Unpaired] = []
    for key, was in old.items():
        if key in new:
            made, found = pair_seeds(called[key], was, new[key], shared)
            pairs += made
            findings += found
        else:
            findings.append(_explain_absence(called[key], key, was, new))
    fresh = [key for key in new if key not in old]
    for key in fresh:
        if bad := [r for r in new[key].values() if r.status in ("failed", "diverged")]:
            findings.append(Unpaired(called[key], _measure(bad[0]), "NEW_FAILURE", _failure_reason(bad), tuple(bad)))
    return pairs, findings, len(fresh)


def pair_seeds(name: str, was: Seeds, now: Seeds, shared: bool) -> tuple[list[Pair], list[Unpaired]]:
    """Two records' worth of seeds: a pair for each metric, or why there is none."""
    good = {s: r for s, r in was.items() if r.status == "ok"}
    findings = []
    measure = _measure(next(iter(was.values())))
    fixed = [s for s, r in was.items() if r.status != "ok" and any(x.status == "ok" for x in _matches(now, s))]
    if fixed:
        findings.append(Unpaired(name, measure, "FIXED", f"{was[fixed[0]].status} before{_list_seeds(fixed)}"))
    elif not good:
        findings.append(Unpaired(name, measure, "NOT_COMPARABLE", f"{next(iter(was.values())).status} before as well"))
    if not good:
        return [], findings
    met = {s: _matches(now, s) for s in sorted(good, key=lambda s: -1 if s is None else s)}
    if shared and any(met.values()):
        met = {s: found for s, found in met.items() if found}
    if bad := [r for found in met.values() for r in found if r.status in ("failed", "diverged")]:
        return [], [*findings, Unpaired(name, measure, "NEW_FAILURE", _failure_reason(bad), tuple(bad))]
    if gone := [s for s, found in met.items() if not any(r.status == "ok" for r in found)]:
        skipped = [r for s in gone for r in met[s]]
        reason = f"skipped: {skipped[0].reason}" if skipped else f"not measured{_list_seeds(gone)}"
        return [], [*findings, Unpaired(name, measure, "MISSING", reason)]
    both = [(good[s], r) for s, found in met.items() for r in found]
    first, other = both[0]
    there = {r.metric for r in other.readings}
    for reading in first.readings:
        if reading.metric not in there:
            findings.append(Unpaired(name, reading.metric, "MISSING", "the measure no longer reports it"))
    befores, afters = zip(*both, strict=True)
    pairs = [Pair(name, r.metric, befores, afters) for r in first.readings if r.metric in there and r.better]
    return pairs, findings


def _matches(records: Mapping[int | None, Record], seed: int | None) -> list[Record]:
    """What a seed meets: its like; a row without seeds meets them all."""
    if seed is None:
        return list(records.values())
    found = records.get(seed, records.get(None))
    return [found] if found else []


def _explain_absence(name: str, key: IdentityKey, was: Seeds, new: Mapping[IdentityKey, Seeds]) -> Unpaired:
    """Gone, or measured in another way: on the same text or task, and all else the same, by another protocol."""
    about = dict(key)
    before = _protocol(was)
    rest = {k: v for k, v in about.items() if k != "protocol"}
    for other, seeds in new.items():
        after = _protocol(seeds)
        if {k: v for k, v in other if k != "protocol"} == rest and after.name == before.name:
            reason = f"other protocol: {before.label}, now {after.label}"
            return Unpaired(name, str(about.get("measure")), "NOT_COMPARABLE", reason)
    if all(r.status != "ok" for r in was.values()):
        return Unpaired(name, str(about.get("measure")), "NOT_COMPARABLE", "had no result before, and is gone")
    return Unpaired(name, str(about.get("measure")), "MISSING", "not measured")


def _protocol(seeds: Seeds) -> Protocol:
    return next(iter(seeds.values())).identity.protocol


def _measure(record: Record) -> str:
    return str(record.identity.measure)


def _failure_reason(bad: list[Record]) -> str:
    return f"{bad[0].reason or bad[0].status}" + _list_seeds([r.identity.seed for r in bad])


def _list_seeds(seeds: Iterable[Any]) -> str:
    told = [str(s) for s in seeds if s is not None]
    return f" (seed {', '.join(told)})" if told else ""


def short_names(identities: Iterable[IdentityKey], without: tuple[str, ...]) -> dict[IdentityKey, str]:
    """Short names, longer where two would be the same."""
    identities = list(identities)
    short = ("model", "method", "pattern", "quantizer", "protocol")
    rest = ("measure", "dtype", "device", "training", "calibration", "targets")
    taken: dict[str, list[IdentityKey]] = {}
    for key in identities:
        about = {k: v for k, v in key if not (k == "quantizer" and v == "none") and k not in without}
        parts = [str(about[k]) for k in short if k in about and not (k == "pattern" and _pattern_is_method(about))]
        taken.setdefault(" ".join(parts), []).append(key)
    out = {}
    for name, keys in taken.items():
        told = [k for k in rest if len({dict(key).get(k) for key in keys}) > 1] if len(keys) > 1 else []
        for key in keys:
            out[key] = " ".join([name, *(str(dict(key).get(k)) for k in told)])
    return out


def _pattern_is_method(about: Mapping[str, Any]) -> bool:
    """Is the pattern already said by the method, as it is for dense?"""
    return bool(about.get("pattern") == about.get("method"))
