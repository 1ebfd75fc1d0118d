"""What is compared: records of a results folder or of a baseline, and their per-item scores."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bench.results.record import Record
from bench.results.store import Store
from methods.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

ITEM_COLUMNS = ("item_id", "cluster_id", "weight")


class Items(NamedTuple):
    """Scores by item, sorted by item id. columns: `value`, and those of other metrics by their names."""

    ids: NDArray[Any]
    clusters: NDArray[Any]
    weights: Array
    columns: dict[str, Array]


@dataclass(frozen=True)
class ResultSet:
    """Records, and a function that reads their items. name: what the user calls them."""

    name: str
    records: tuple[Record, ...]
    items: Callable[[Record], Items]
    """Raises UserError if the scores cannot be read."""

    @property
    def metrics(self) -> set[str]:
        """The metrics that some record has."""
        return {reading.metric for record in self.records for reading in record.readings}

    def only(self, name: str, records: Iterable[Record]) -> ResultSet:
        """Some of the records, under another name."""
        return ResultSet(name, tuple(records), self.items)


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the garbage collector: it would find nothing in thousands of records, and take a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_items(store: Store, record: Record) -> Items:
    """A record's items from a results folder.

    Raises:
        UserError: it has none, or the file is not the one that the record names, or not Parquet.
    """
    return items_of_table(read_parquet(store.content(record), str(store.items_path(record))))


def read_parquet(content: bytes, name: str) -> Any:
    """A table of items from the content of a file. name: the file, for error messages.

    Raises:
        UserError: not Parquet, or a column is missing.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(content))
        table = file.read(use_threads=False)  # of so few rows, several times as fast as read_table
    except (pyarrow.ArrowException, OSError, ValueError) as fault:
        raise UserError(f"{name} is not Parquet ({str(fault).splitlines()[0][:80]}): make it again") from None
    if missing := {*ITEM_COLUMNS, "value"} - set(table.column_names):
        raise UserError(f"{name} has no column {min(missing)!r}: make it again")
    return table


def items_of_table(table: Any) -> Items:
    """Items of one record from an Arrow table. Columns that are all null belong to other records."""
    fixed = {name: table.column(name).to_numpy(zero_copy_only=False) for name in ITEM_COLUMNS}
    order = np.argsort(fixed["item_id"].astype(str), kind="stable")
    columns = {}
    for name in table.column_names:
        if name not in (*ITEM_COLUMNS, "record") and table.column(name).null_count < table.num_rows:
            columns[name] = table.column(name).to_numpy(zero_copy_only=False).astype(np.float64)[order]
    return Items(
        fixed["item_id"][order], fixed["cluster_id"][order], fixed["weight"][order].astype(np.float64), columns
    )
