"""Sets of results to compare: records of a results folder or a baseline, and their items."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bench.results.derive import Items
from bench.results.identity import IdentityKey, Protocol
from bench.results.record import Record

Scored = dict[tuple[str, Protocol], Record]
"""Records of the same weights by measure and protocol."""


@dataclass(frozen=True)
class ResultSet:
    """Records, and a function that reads their items. name: the user's name for them."""

    name: str
    records: tuple[Record, ...]
    items: Callable[[Record], Items]
    """Reader of a record's items. It raises UserError if they cannot be read."""

    @property
    def metrics(self) -> set[str]:
        """Return the metrics that some record has."""
        return {reading.metric for record in self.records for reading in record.readings}

    @cached_property
    def scored(self) -> dict[tuple[str, IdentityKey], Scored]:
        """Return the records with scores on a text or task, by artifact and row."""
        out: dict[tuple[str, IdentityKey], Scored] = {}
        for record in self.records:
            identity = record.identity
            if record.items and identity.subject in ("text", "task"):
                of_row = out.setdefault((record.artifact, row_of(record)), {})
                of_row[identity.measure, identity.protocol] = record
        return out

    def only(self, name: str, records: Iterable[Record]) -> ResultSet:
        """Return some of the records, under another name."""
        return ResultSet(name, tuple(records), self.items)

    @cached_property
    def scores(self) -> dict[tuple[str, str], NDArray[np.float64]]:
        """Scores by item that were read, by key and metric."""
        return {}

    def with_cache(self) -> ResultSet:
        """Return the same, with the items of each record read once. Arrays of equal windows or
        questions are one array."""
        cache: dict[str, Items] = {}
        known: dict[tuple[object, ...], Items] = {}

        def items(record: Record) -> Items:
            if record.key not in cache:
                found = self.items(record)
                same = (tuple(found.ids), tuple(found.clusters), found.weights.tobytes())
                first = known.setdefault(same, found)
                cache[record.key] = Items(*first[:3], found.columns)
            return cache[record.key]

        return ResultSet(self.name, self.records, items)


def row_of(record: Record) -> IdentityKey:
    """Return what the records of one artifact share."""
    return record.identity.key("measure", "protocol")


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the garbage collector. It takes a third of the time, and finds nothing in thousands of
    records."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
