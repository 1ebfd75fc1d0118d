"""Records as rows, data frames, CSV and JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from bench.results.record import Record

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "model", "method", "pattern", "quantizer", "seed", "measure", "protocol", "metric", "value", "stderr", "n", "unit",
    "better", "status", "reason", "record", "calibration", "targets", "dtype", "device",
    "training",
)  # fmt: skip
"""Of every row, in this order. New ones are only ever added at the end."""

QUIET = ("parameters", "nonzeros", "bytes", "negative_zeros", "acc_norm")
"""Metrics that a table leaves out unless asked; every export has them."""

IDENTITY = ("model", "method", "pattern", "quantizer", "calibration", "training", "targets", "dtype", "device")
"""What makes two rows of a table the same row, seeds apart."""


def latest(records: Iterable[Record]) -> list[Record]:
    """The last record of each slot, whatever became of it: a number of older code does not hide that today's fails."""
    return newest(records, good_first=False)


def newest(records: Iterable[Record], *, good_first: bool = True) -> list[Record]:
    """One record a slot: the one recorded last. good_first: a good one before a failed one, however late that came."""
    best: dict[str, tuple[tuple[bool, str, bool], Record]] = {}
    for record in records:
        slot = repr(sorted(record.slot.items()))
        good = record.status != "failed"
        rank = (good and good_first, record.provenance.get("recorded", ""), good)
        if slot not in best or rank >= best[slot][0]:
            best[slot] = (rank, record)
    return [record for _, record in best.values()]


def to_rows(records: Iterable[Record]) -> list[dict[str, Any]]:
    """One row a reading; a record without readings is one row with its status and reason."""
    out = []
    for record in records:
        slot = record.slot
        include, exclude = slot.get("targets", [["*"], []])
        common = {k: slot.get(k) for k in ("model", "method", "pattern", "quantizer", "seed", "measure", "protocol")}
        common |= {k: slot.get(k) for k in ("calibration", "training", "dtype", "device")}
        common["targets"] = ",".join(include) + ("" if not exclude else " without " + ",".join(exclude))
        common |= {"status": record.status, "reason": record.reason, "record": record.key[:32]}
        readings = [r.model_dump() for r in record.readings] or [{"metric": slot.get("measure")}]
        out += [{c: {**common, **reading}.get(c) for c in COLUMNS} for reading in readings]
    return out


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(to_rows(records), columns=list(COLUMNS)).astype({"seed": "Int64", "n": "Int64"})


def to_csv(records: Iterable[Record]) -> str:
    return guarded(to_frame(records))


def guarded(table: pd.DataFrame) -> str:
    """A frame as CSV. A text cell that a spreadsheet would take for a formula gets a quote in front."""
    table = table.copy()
    for column in table.columns:
        table[column] = table[column].map(lambda v: "'" + v if isinstance(v, str) and v[:1] in "=+-@\t\r" and v else v)
    text: str = table.to_csv(index=False)
    return text


def to_json(records: Iterable[Record]) -> str:
    import json

    return json.dumps(to_rows(records), indent=1, allow_nan=False)
