"""Sets of results to compare: records of a results folder or a baseline, and their items."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from bench.results.derive import Items
from bench.results.record import Record


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

    def only(self, name: str, records: Iterable[Record]) -> ResultSet:
        """Return some of the records, under another name."""
        return ResultSet(name, tuple(records), self.items)

    def with_cache(self) -> ResultSet:
        """Return the same, with the items of each record read once."""
        cache: dict[str, Items] = {}

        def items(record: Record) -> Items:
            if record.key not in cache:
                cache[record.key] = self.items(record)
            return cache[record.key]

        return ResultSet(self.name, self.records, items)


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
