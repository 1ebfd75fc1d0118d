"""Check a results folder: is every record whole, and is every number the one that its items give?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.results import metrics
from bench.results.record import ReadingRow, Record
from bench.results.store import ReadOnlyStore, require_results
from methods.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = 1e-9
"""Relative. A number and its items are written by the same process; only the order of a sum may differ."""


@dataclass(frozen=True)
class FolderCheck:
    """What a look at every file of a results folder shows."""

    records: int
    recomputed: int
    """Numbers that their items give."""
    problems: tuple[str, ...]
    """A sentence for each record that is damaged or was changed."""
    leftovers: tuple[Path, ...]
    """Files that belong to no record: scores, halves of files of killed processes, records that were moved aside."""


def check_folder(root: Path) -> FolderCheck:
    """Check every record, its items and each number that can be computed from them. Changes nothing.

    Raises:
        UserError: no results folder.
    """
    require_results(root)
    store = ReadOnlyStore(root, write=False)
    problems: list[str] = []
    recomputed, owned = 0, set()
    records = list(store)
    for record in records:
        if record.items is None:
            continue
        owned.add(store.items_path(record).name)
        try:
            values = recompute(record, store.items(record))
        except (
            UserError,
            OSError,
            ValueError,
            KeyError,
            TypeError,
            ArithmeticError,
        ) as fault:  # not Parquet, or no numbers
            problems.append(f"{store.path(record.key)}: its items cannot be read ({str(fault).splitlines()[0]})")
            continue
        recomputed += len(values)
        problems += [
            f"{store.path(record.key)}: its {reading.metric} is {_show(reading.value)}, but its items give {_show(value)}"
            for reading, value in values
            if reading.value is None or not math.isclose(reading.value, value, rel_tol=TOLERANCE, abs_tol=1e-12)
        ]
    return FolderCheck(
        records=len(records) + len(store.moved),
        recomputed=recomputed,
        problems=(*store.moved, *problems),
        leftovers=tuple(_leftovers(root, owned)),
    )


def recompute(record: Record, items: pd.DataFrame) -> list[tuple[ReadingRow, float]]:
    """The readings that are means over a record's items, each with that mean."""
    own = [reading for reading in record.readings if reading.metric not in items.columns]
    out = []
    for reading in record.readings:
        metric = metrics.find(reading.metric)
        column = reading.metric if reading not in own else "value" if len(own) == 1 else None
        if column is None or reading.value is None or not metric.averages_items:
            continue
        if metric.windowed:  # a window's value is a sum over its tokens
            mean = math.fsum(items[column]) / math.fsum(items["weight"])
        else:
            mean = math.fsum(items[column]) / len(items)
        out.append((reading, math.exp(mean) if metric.log else mean))
    return out


def _show(value: float | None) -> str:
    return "missing" if value is None else f"{value:.9g}"


def _leftovers(root: Path, owned: set[str]) -> Iterator[Path]:
    for folder in ("records", "items"):
        yield from sorted((root / folder).glob(".*"))
    yield from sorted(path for path in (root / "items").glob("*.parquet") if path.name not in owned)
    yield from sorted((root / "corrupt").glob("*"))
