"""Per-item scores of a record: read them, and compute the record's numbers from them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bench.results import metrics
from bench.results.record import Item, ReadingRow, Record
from methods.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

ID_COLUMNS = ("item_id", "cluster_id", "weight")
TOLERANCE = 1e-9
"""Relative difference between a number and its items that is no damage: only the summation order may differ."""


class Items(NamedTuple):
    """Scores by item, sorted by item id. columns: `value`, and those of other metrics by their names."""

    ids: NDArray[Any]
    clusters: NDArray[Any]
    weights: Array
    columns: dict[str, Array]


def pack(items: Sequence[Item]) -> bytes:
    """Return items as Parquet."""
    import pyarrow as pa
    from pyarrow import parquet

    fixed = zip(*(item[:4] for item in items), strict=True)
    columns: dict[str, Any] = dict(zip(("item_id", "cluster_id", "value", "weight"), fixed, strict=True))
    columns |= {name: [item.beside[name] for item in items] for name in items[0].beside}
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def unpack(content: bytes, record: Record, name: str) -> Items:
    """Return a record's items from the content of their file. name: the file, for the error.

    Raises:
        UserError: they are not Parquet, or not those of the record.
    """
    assert record.items is not None
    return of_table(read_parquet(content, name, record.items.rows), record, name)


def read_parquet(content: bytes, name: str, rows: int | None = None) -> Any:
    """Return a table of items. rows: how many it must have, which is checked before they are read.

    Raises:
        UserError: the content is not Parquet, or a column is missing.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(content))
        if rows is not None and file.metadata.num_rows != rows:
            raise UserError(f"{name} has {file.metadata.num_rows:,} items, but its record says {rows:,}: make it again")
        table = file.read(use_threads=False)  # for so few rows, several times as fast as read_table
    except (pyarrow.ArrowException, OSError, ValueError) as fault:
        raise UserError(f"{name} is not Parquet ({str(fault).splitlines()[0][:80]}): make it again") from None
    if missing := {*ID_COLUMNS, "value"} - set(table.column_names):
        raise UserError(f"{name} has no column {min(missing)!r}: make it again")
    return table


def of_table(table: Any, record: Record, name: str) -> Items:
    """Return one record's items from an Arrow table. Columns that are all null belong to other records.

    Raises:
        UserError: they are not those of the record.
    """
    try:
        items = _items(table)
        wrong = next(_mismatches(record, items), "")
    except (ValueError, TypeError, ArithmeticError) as fault:
        wrong = f"it has other values than numbers ({str(fault).splitlines()[0][:80]})"
    if wrong:
        raise UserError(f"{name} is not that of record {record.short_key}: {wrong}: measure it again")
    return items


def _items(table: Any) -> Items:
    fixed = {name: table.column(name).to_numpy(zero_copy_only=False) for name in ID_COLUMNS}
    order = np.argsort(fixed["item_id"].astype(str), kind="stable")
    columns = {}
    for name in table.column_names:
        if name not in (*ID_COLUMNS, "record") and table.column(name).null_count < table.num_rows:
            columns[name] = table.column(name).to_numpy(zero_copy_only=False).astype(np.float64)[order]
    weights = fixed["weight"][order].astype(np.float64)
    return Items(fixed["item_id"][order], fixed["cluster_id"][order], weights, columns)


def _mismatches(record: Record, items: Items) -> Iterator[str]:
    """Yield a sentence for each way in which items are not those of their record."""
    if record.items is not None and len(items.ids) != record.items.rows:
        yield f"it has {len(items.ids):,} items, not {record.items.rows:,}"
    if len(set(items.ids)) != len(items.ids):
        yield "it has an item twice"
    for reading, derived in derive(record, items):
        for what, stored, value in zip(
            ("", "standard error of ", "n of "), (reading.value, reading.stderr, reading.n), derived, strict=True
        ):
            if stored is not None and not math.isclose(stored, value, rel_tol=TOLERANCE, abs_tol=1e-12):
                yield f"{what}{reading.metric} is {stored:.9g}, but its items give {value:.9g}"


class Derived(NamedTuple):
    """The parts of a reading that its items give."""

    value: float
    stderr: float
    n: int


def derive(record: Record, items: Items) -> Iterator[tuple[ReadingRow, Derived]]:
    """Yield the readings that are means over a record's items, each with what its items give.

    Raises:
        ArithmeticError: the items have no finite mean.
    """
    own = [reading for reading in record.readings if reading.metric not in items.columns]
    for reading in record.readings:
        metric = metrics.find(reading.metric)
        column = reading.metric if reading not in own else "value" if len(own) == 1 else None
        if column is None or reading.value is None or not metric.averages_items:
            continue
        values, n = items.columns[column], len(items.ids)
        # The value of a window is a sum over its tokens.
        with np.errstate(all="ignore"):
            each = values / items.weights if metric.windowed else values
        weights = items.weights if metric.windowed else np.ones(n)
        if not (np.isfinite(values).all() and weights.sum() > 0):
            raise ArithmeticError(f"{reading.metric} has no finite mean")
        mean = float(math.fsum(values) / math.fsum(weights))
        stderr = float(each.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
        value = math.exp(mean) if metric.log else mean
        yield reading, Derived(value, stderr * value if metric.log else stderr, n)
