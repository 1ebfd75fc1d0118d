"""The cost to make a row, over all of its stages: tokens, seconds and the device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bench.results.identity import Identity
from bench.results.record import Record
from bench.system.grouping import group_by
from bench.system.text import amount

BUILT = "build_s"
"""Key of a record's cost: seconds of its last stage. One record of an artifact has it."""
WORDS = ("(R)", "(TM)", " Processor", " CPU")
"""Words that are removed from a processor's name."""


@dataclass(frozen=True)
class RowCost:
    """The cost of a row. tokens: for calibration and training; at_least: the record of an earlier
    stage is missing. Fields as in `Facts`."""

    tokens: int
    seconds: float
    device: str
    at_least: bool


class CostIndex:
    """The newest records with the cost of each stage."""

    def __init__(self, records: Iterable[Record]) -> None:
        timed = sorted(
            (r for r in records if BUILT in r.cost), key=lambda r: r.recorded, reverse=True
        )
        self._by_stages = group_by(timed, lambda record: _stages(record.identity))

    def of_row(self, identities: Iterable[Identity]) -> RowCost | None:
        """Return the mean over a row's seeds; None if no record has it. identities: one for each
        seed."""
        costs = [cost for cost in map(self._of_seed, identities) if cost]
        if not costs:
            return None
        seconds = math.fsum(c.seconds for c in costs) / len(costs)
        return RowCost(
            max(c.tokens for c in costs), seconds, costs[0].device, any(c.at_least for c in costs)
        )

    def _of_seed(self, identity: Identity) -> RowCost | None:
        same = (
            r
            for r in self._by_stages.get(_stages(identity), ())
            if _inputs(r.identity) == _inputs(identity)
        )
        own = next(same, None)
        if own is None:
            return None
        records, missing = [own], False
        for earlier in _earlier(identity):
            record = next(
                (
                    r
                    for r in self._by_stages.get(_stages(earlier), ())
                    if _fits(r.identity, identity)
                ),
                None,
            )
            missing = missing or record is None
            if record:
                records.append(record)
        tokens = sum(
            int(r.cost.get(k) or 0)
            for r in records
            for k in ("calibration_tokens", "training_tokens")
        )
        devices = dict.fromkeys(_device(r) for r in records if r.cost[BUILT])
        # `sum` rounds in another way since Python 3.12, and a published file has all digits.
        seconds = math.fsum(r.cost[BUILT] for r in records)
        return RowCost(tokens, seconds, " and ".join(devices), missing)


def _inputs(identity: Identity) -> tuple[Any, ...]:
    return (identity.seed, identity.calibration, identity.training)


def _fits(earlier: Identity, later: Identity) -> bool:
    """Return whether one identity may be an earlier stage of another. It may lack a seed,
    calibration or training."""
    return all(a in (None, b) for a, b in zip(_inputs(earlier), _inputs(later), strict=True))


def _stages(identity: Identity) -> tuple[Any, ...]:
    names = ("model", "stages", "pattern", "quantizer", "include", "exclude", "dtype", "device")
    return tuple(getattr(identity, name) for name in names)


def _earlier(identity: Identity) -> Iterator[Identity]:
    """Yield the artifacts that this one was made from. The dense model costs nothing."""
    stages = identity.stages
    if identity.quantizer != "none" and stages != ("dense",):
        yield identity.model_copy(update={"quantizer": "none"})
    for count in range(len(stages) - 1, 0, -1):
        yield identity.model_copy(update={"stages": stages[:count], "quantizer": "none"})


def _device(record: Record) -> str:
    name = record.processor_kind or "unknown machine"
    for word in WORDS:
        name = name.replace(word, "")
    threads = record.key_inputs.get("threads")
    on_card = record.machine.get("device")
    if on_card or not threads:
        return name
    return f"{name}, {amount(threads, 'thread')}"
