"""Records as rows, data frames, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from bench.results import guessing, recount
from bench.results.record import DONE, Record
from bench.system.grouping import group_by
from bench.system.text import escape_csv

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "model", "method", "pattern", "quantizer", "seed", "measure", "protocol", "metric", "value",
    "stderr", "n", "unit", "better", "status", "reason", "record", "calibration", "targets",
    "dtype", "device", "training",
)  # fmt: skip
"""Columns of all rows, in order. Add new ones at the end."""

IDENTITY = (
    "model",
    "method",
    "pattern",
    "quantizer",
    "calibration",
    "training",
    "targets",
    "dtype",
    "device",
)
"""Columns in which the records of one table row agree. Their seeds differ."""


def latest(records: Iterable[Record]) -> list[Record]:
    """Return the last record of each identity, of any status: an older number must not hide today's
    failure."""
    return newest(records, good_first=False)


def newest(records: Iterable[Record], *, good_first: bool = True) -> list[Record]:
    """Return the last record of each identity. good_first: prefer any with numbers to one that
    failed or was skipped."""
    groups = group_by(records, lambda record: record.identity.key())
    return [_last(group, good_first) for group in groups.values()]


def _last(records: list[Record], good_first: bool) -> Record:
    order = age(records)
    good = [record.status in DONE for record in records]
    ranks = [
        (g and good_first, order(r), g, i)
        for i, (r, g) in enumerate(zip(records, good, strict=True))
    ]
    return records[max(ranks)[-1]]


def outdated(records: Sequence[Record]) -> list[tuple[Record, str]]:
    """Return the records of weights or a text that have other content under the same name in a
    newer record, each with a sentence.

    A mean, or a ratio to the dense model, over both would be of nothing.
    """
    found, known = [], dict[object, tuple[str, Record]]()
    for record in sorted((r for r in records if r.status == "ok"), key=age(records), reverse=True):
        identity = record.identity
        weights = None if "made_elsewhere" in record.notes else record.key_inputs.get("model")
        of_text = (identity.model, identity.measure, identity.protocol)
        for name, digest, what in (
            (identity.model, weights, f"the model {identity.model}"),
            (of_text, record.token_digest, f"the content of {identity.protocol.label}"),
        ):
            newer = known.setdefault(name, (digest, record)) if digest else (digest, record)
            if newer[0] != digest:
                found.append(
                    (record, f"{what} was another than in the newer record {newer[1].short_key}")
                )
                break
    return found


def age(records: Iterable[Record]) -> Callable[[Record], tuple[str, str]]:
    """Return a sort key that puts the oldest record of an identity first.

    It is the time of the commits if all have one, because clocks may go back, and then the time of
    recording.
    """
    times = {id(record): str(record.code.get("time") or "") for record in records}
    if not all(times.values()):
        times = {}
    return lambda record: (times.get(id(record), ""), record.recorded)


def to_rows(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Return a row for each reading, or one row with status and reason for a record without
    readings.

    Some readings are derived (bench.results.recount). The columns are COLUMNS; `identity`, the
    record's identity with its parts; and `guess`, what guesses reach on the task.
    """
    out = []
    empty = dict.fromkeys((*COLUMNS, "identity", "guess"))
    for record in records:
        common: dict[str, Any] = {
            **record.identity.labels(),
            "status": record.status,
            "reason": record.reason,
        }
        guess = guessing.of_record(record) if record.identity.subject == "task" else None
        common |= {"record": record.stem, "identity": record.identity, "guess": guess}
        readings = [reading.model_dump() for reading in recount.read(record)]
        for reading in readings or [{"metric": record.identity.measure}]:
            out.append({**empty, **common, **reading})
    return out


def to_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Return a frame with COLUMNS."""
    import pandas as pd

    rows = to_rows(records)
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    for column in ("seed", "n"):
        # In the frame they are floats where one is missing, and lose their last digits.
        frame[column] = pd.array([row[column] for row in rows], dtype="Int64")
    return frame


def shown_rows(
    records: Iterable[Record], signers: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Return rows of COLUMNS. signers: who signed each record, for one more column."""
    rows = []
    for row in to_rows(records):
        shown = {column: row[column] for column in COLUMNS}
        if signers is not None:
            shown["signed_by"] = signers.get(row["record"], "")
        rows.append(shown)
    return rows


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV, with the columns of the first. Escape text, so that no cell is a formula
    or acts on a terminal."""
    columns = list(rows[0]) if rows else list(COLUMNS)
    out, escape = io.StringIO(), cache(escape_csv)  # most texts are in many lines
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        values = map(row.get, columns)
        writer.writerow([escape(v) if isinstance(v, str) else v for v in values])
    return out.getvalue()


def to_json(records: Iterable[Record], signers: Mapping[str, str] | None = None) -> str:
    return json.dumps(shown_rows(records, signers), indent=1, allow_nan=False)
