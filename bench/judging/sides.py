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

from bench.store import Record, Store
from bench.table import newest
from methods.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

FIXED = ("item_id", "cluster_id", "weight")


class Items(NamedTuple):
    """Scores by item, sorted by its id. columns: `value`, and a further metric's by its name."""

    ids: NDArray[Any]
    clusters: NDArray[Any]
    weights: Array
    columns: dict[str, Array]


@dataclass(frozen=True)
class Side:
    """One side of a comparison."""

    name: str
    records: tuple[Record, ...]
    items: Callable[[Record], Items]
    """Raises UserError where the scores cannot be read."""

    def only(self, name: str, records: Iterable[Record]) -> Side:
        return Side(name, tuple(records), self.items)


class _Still(Store):
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
def uncollected() -> Iterator[None]:
    """No cyclic garbage is looked for: among records by the thousand there is none, and looking takes a third of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@uncollected()
def read(path: Path, what: str = "results", *, every: bool = False) -> Side:
    """A results folder, or a file that `bench baseline set` wrote. every: all records, not the newest of each slot.

    Raises:
        UserError: it is not there, or something in it cannot be read. `what` is said with it.
    """
    if path.is_file():
        from bench.judging import baseline

        return baseline.read(path)
    if not path.is_dir():
        raise UserError(f"{what} {str(path)!r} is not there: name a results folder or a file of bench baseline set")
    if not (path / "records").is_dir():
        raise UserError(f"{what} {str(path)!r} is no results folder: it has no records/ in it")
    store = _Still(path, write=False)
    records = list(store)
    if store.moved:
        raise UserError(f"{what} cannot be read: {store.moved[0]}: delete it, or run the same bench run again")
    if not records:
        raise UserError(f"{what} {str(path)!r} holds no records: run bench run --results {path} first")
    return Side(str(path), tuple(records if every else latest(records)), lambda record: _of_file(path, record))


def _of_file(root: Path, record: Record) -> Items:
    if record.items is None:
        raise UserError(f"record {record.key[:12]} in {str(root)!r} kept no per-item scores: run it again")
    path = root / "items" / Path(record.items.file).name
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != record.items.sha256:
        raise UserError(f"{path} is not the file its record speaks of: delete record {record.key[:32]} and run again")
    return from_table(table(content, str(path)))


def table(content: bytes, name: str) -> Any:
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
    if missing := {*FIXED, "value"} - set(found.column_names):
        raise UserError(f"{name} has no column {min(missing)!r}: make it again")
    return found


def from_table(found: Any) -> Items:
    """Items of one record from an Arrow table; columns that are null throughout belong to others."""
    fixed = {name: found.column(name).to_numpy(zero_copy_only=False) for name in FIXED}
    order = np.argsort(fixed["item_id"].astype(str), kind="stable")
    columns = {}
    for name in found.column_names:
        if name not in (*FIXED, "record") and found.column(name).null_count < found.num_rows:
            columns[name] = found.column(name).to_numpy(zero_copy_only=False).astype(np.float64)[order]
    return Items(
        fixed["item_id"][order], fixed["cluster_id"][order], fixed["weight"][order].astype(np.float64), columns
    )


def latest(records: Iterable[Record]) -> list[Record]:
    """The last record of each slot, whatever became of it: a number of older code does not hide that today's fails."""
    return newest(records, good_first=False)


def slot(record: Record, *without: str) -> tuple[Any, ...]:
    """A record's slot as something that can be a key."""
    return tuple(
        (k, v if isinstance(v, str) else _plain(v))
        for k, v in sorted(record.slot.items())
        if v is not None and k not in without
    )


def _plain(value: Any) -> Any:
    return tuple(_plain(v) for v in value) if isinstance(value, list | tuple) else value
