"""Per-item scores of a record: read them, and compute the record's numbers from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.results.derive import Items
from bench.results.record import Item, ItemsFile, Record, parse
from bench.results.record_check import check_record
from bench.system.bounded import bounded_memory
from methods.contract.errors import UserError, first_line

ID_COLUMNS = ("item_id", "cluster_id", "weight")
TEXT_COLUMNS = ("item_id", "cluster_id", "record")
SLACK_BYTES, MAX_RATIO = 2**28, 64
"""Memory that reading items may take: bytes, and a multiple of the bytes of their file."""


def pack(items: Sequence[Item]) -> bytes:
    """Return items as Parquet."""
    import pyarrow as pa
    from pyarrow import parquet

    ids, clusters, values, weights, _ = zip(*items, strict=True)
    columns: dict[str, Any] = {
        "item_id": ids,
        "cluster_id": clusters,
        "value": values,
        "weight": weights,
    }
    for name in items[0].beside:
        columns[name] = [item.beside[name] for item in items]
    sink = pa.BufferOutputStream()
    # With many columns and few rows, most of a file with statistics and an Arrow schema is footer.
    table = pa.table(columns)
    parquet.write_table(table, sink, compression="zstd", write_statistics=False, store_schema=False)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def require_readable(record: Record, items: Sequence[Item]) -> None:
    """Raise UserError, or what the writer raises, if a reader would refuse the record with these
    items."""
    if len({frozenset(item.beside) for item in items}) > 1:
        raise UserError("its items differ in their columns")
    content, file = b"", None
    if items:
        content = pack(items)
        file = ItemsFile(file="", rows=len(items), sha256="", size=len(content))
    whole = parse(record.model_copy(update={"items": file}).to_json().encode(), "the record")
    check_record(whole, unpack(content, whole, "items") if items else None)


def unpack(content: bytes, record: Record, name: str, *, known: bool = False) -> Items:
    """Return a record's items from the content of their Parquet file. name: the file, for the
    error. known: whether this function has accepted these very bytes before."""
    return of_table(read_parquet(content, name, known=known), name)


def read_parquet(
    content: bytes, name: str, text: Sequence[str] = TEXT_COLUMNS[:2], *, known: bool = False
) -> Any:
    """Return a table of items. Refuse other columns. text: its columns of text. known: see
    `unpack`."""
    import pyarrow
    from pyarrow import parquet

    try:
        # A dictionary holds a text once, however often a small file repeats it.
        file = parquet.ParquetFile(pyarrow.BufferReader(content), read_dictionary=list(text))
        if known:
            return file.read(use_threads=False)
        rows = file.metadata.num_rows
        if not rows:  # its columns of text are of another type
            file = parquet.ParquetFile(pyarrow.BufferReader(content))
        wrong = _find_odd_column(file.schema_arrow, rows)
        if wrong:
            raise UserError(f"{name} {wrong}: make it again")
        # A page may unpack to more than the footer says.
        with bounded_memory(SLACK_BYTES + MAX_RATIO * len(content)):
            # For so few rows, this is several times as fast as read_table.
            table = file.read(use_threads=False)
        for column in text if rows else ():
            if table.column(column).null_count:
                raise UserError(f"{name} has an empty {column}: make it again")
    except KeyError as fault:
        raise UserError(f"{name} has no column {fault.args[0].decode()!r}: make it again") from None
    except (pyarrow.ArrowException, OSError, ValueError, MemoryError) as fault:
        raise UserError(
            f"{name} is not Parquet ({first_line(fault)[:80]}): make it again"
        ) from None
    return table


def _find_odd_column(schema: Any, rows: int) -> str:
    """Return what is wrong with the columns of a table of items, or ""."""
    from pyarrow import types

    missing = {*ID_COLUMNS, "value"} - set(schema.names)
    if missing:
        return f"has no column {min(missing)!r}"
    doubled = [name for name in schema.names if schema.names.count(name) > 1]
    if doubled:
        return f"has two columns {doubled[0]!r}"
    if not rows:
        return ""
    for field in schema:
        kind = field.type
        is_text = types.is_dictionary(kind)
        if is_text:
            kind = kind.value_type
        if field.name in TEXT_COLUMNS:
            is_right = is_text and (types.is_string(kind) or types.is_large_string(kind))
        else:
            is_right = types.is_floating(kind) or types.is_integer(kind)
        if not is_right:
            return f"has {field.type} in column {field.name!r}"
    return ""


def of_table(table: Any, name: str) -> Items:
    """Return one record's items from an Arrow table. Columns that are all null belong to other
    records."""
    rows = table.num_rows
    given = {
        column: table.column(column).to_numpy(zero_copy_only=False)
        for column in table.column_names
        if column in (*ID_COLUMNS, "value") or table.column(column).null_count < rows
    }
    try:
        order = np.argsort(given["item_id"], kind="stable")
        numbers = {
            column: values[order].astype(np.float64)
            for column, values in given.items()
            if column not in TEXT_COLUMNS
        }
    except (ValueError, TypeError) as fault:
        raise UserError(
            f"{name} has other values than numbers ({first_line(fault)[:80]}): measure it again"
        ) from None
    ids, clusters = given["item_id"][order], given["cluster_id"][order]
    return Items(ids, clusters, numbers.pop("weight"), numbers)
