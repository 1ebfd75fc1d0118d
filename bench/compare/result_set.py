"""What is compared: the newest records of a results folder or of a baseline file, and their per-item scores."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
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
    """Scores by item, sorted by its id. columns: `value`, and a further metric's by its name."""

    ids: NDArray[Any]
    clusters: NDArray[Any]
    weights: Array
    columns: dict[str, Array]


@dataclass(frozen=True)
class ResultSet:
    """One side of a comparison."""

    name: str
    records: tuple[Record, ...]
    items: Callable[[Record], Items]
    """Raises UserError where the scores cannot be read."""

    def only(self, name: str, records: Iterable[Record]) -> ResultSet:
        return ResultSet(name, tuple(records), self.items)


class ReadOnlyStore(Store):
    """A store that is looked at and never tidied up: a baseline may be somebody's commit."""

    def __iter__(self) -> Iterator[Record]:
        folder = self.root / "records"
        for name in sorted(
            n for n in os.listdir(folder) if n.endswith(".json")
        ):  # Paths are slow to sort by the thousand
            if (record := self._read(folder / name)) is not None:
                yield record

    def _aside(self, path: Path, why: str) -> None:
        self.moved.append(f"{path} {why}")


@contextlib.contextmanager
def gc_paused() -> Iterator[None]:
    """No cyclic garbage is looked for: among records by the thousand there is none, and looking takes a third of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def items_of_file(root: Path, record: Record) -> Items:
    if record.items is None:
        raise UserError(f"record {record.key[:12]} in {str(root)!r} kept no per-item scores: run it again")
    path = root / "items" / Path(record.items.file).name
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != record.items.sha256:
        raise UserError(f"{path} is not the file its record speaks of: delete record {record.key[:32]} and run again")
    return items_of_table(read_parquet(content, str(path)))


def read_parquet(content: bytes, name: str) -> Any:
    """
    Raises:
        UserError: no Parquet, or without the columns that items have.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        found = parquet.read_table(io.BytesIO(content))
    except (pyarrow.ArrowException, OSError, ValueError) as fault:
        raise UserError(f"{name} is not Parquet ({str(fault).splitlines()[0][:80]}): make it again") from None
    if missing := {*ITEM_COLUMNS, "value"} - set(found.column_names):
        raise UserError(f"{name} has no column {min(missing)!r}: make it again")
    return found


def items_of_table(found: Any) -> Items:
    """Items of one record from an Arrow table; columns that are null throughout belong to others."""
    fixed = {name: found.column(name).to_numpy(zero_copy_only=False) for name in ITEM_COLUMNS}
    order = np.argsort(fixed["item_id"].astype(str), kind="stable")
    columns = {}
    for name in found.column_names:
        if name not in (*ITEM_COLUMNS, "record") and found.column(name).null_count < found.num_rows:
            columns[name] = found.column(name).to_numpy(zero_copy_only=False).astype(np.float64)[order]
    return Items(
        fixed["item_id"][order], fixed["cluster_id"][order], fixed["weight"][order].astype(np.float64), columns
    )
