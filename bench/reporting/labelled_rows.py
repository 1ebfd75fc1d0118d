"""Rows of tables: the readings of records, with what a label says beside the method's name, and
rows of quantized files.

A model can be dequantized from a file of fewer bits. A table then has a row for the file, with the
numbers of the dense model and the size of the file: the weights are the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from bench.catalog import registry
from bench.inputs.models import SOURCE_KEY, QuantizedFile, quantized_file
from bench.results import metrics
from bench.results.record import Record
from bench.results.recount import BITS_PER_PARAMETER
from bench.results.rows import to_rows
from bench.results.storage_notes import claimed_by
from methods.contract.errors import UserError

EARLY = 0.1
"""Share of a training after which S is shown."""

FILE = " file"
"""End of the name of a file, which no quantizer has."""
Row = dict[str, Any]


def labelled_rows(records: Iterable[Record]) -> list[Row]:
    """Return the rows of bench.results.rows with `remarks`, `mask` and `claimed`, and those of
    quantized files.

    remarks: what the methods leave out of their papers. mask: the moves of a mask in training, see
    `mask_moves`. claimed: the library that claims a size, or "" if it was counted.
    """
    out, known = [], list(records)
    claims = {
        record.artifact: claimed_by(record.notes) for record in known if claimed_by(record.notes)
    }
    files = {}
    for record in known:
        if file := _noted_file(record):
            files[record.identity.model] = file
    for record in known:
        about = {"remarks": remarks(record.identity.stages), "mask": mask_moves(record.notes)}
        own = [row | about for row in to_rows([record])]
        if record.artifact in claims:
            own = [_mark_claimed(row, claims[record.artifact]) for row in own]
        model = record.identity.model
        out += [*own, *_file_rows(record, own, quantized_file(model) or files.get(model))]
    return out


def _noted_file(record: Record) -> QuantizedFile | None:
    """Return the GGUF file of the user that a record names as the source of its model."""
    match record.notes.get(SOURCE_KEY):
        case {"format": str(kind), "bits": int() | float() as bits, "bytes": int() as size}:
            return QuantizedFile(kind, bits, size)
    return None


def _mark_claimed(row: Row, library: str) -> Row:
    """Return a row that says whose claim its number is, if the storage of weights decides it."""
    if row["value"] is None or not metrics.find(row["metric"]).from_storage:
        return row
    return row | {"claimed": library, "reason": f"claimed by {library}, and not counted"}


@lru_cache(maxsize=1024)
def remarks(stages: tuple[str, ...]) -> tuple[str, ...]:
    """Return what the methods of these stages leave out of their papers."""
    found = []
    for stage in stages:
        with contextlib.suppress(UserError):  # a method of a package that is not installed
            entry = registry.lookup("methods", stage.split(":")[0])
            variant = entry.variant
            if variant and not (variant.unless and f":{variant.unless}=" in stage):
                found.append(variant.words)
    return tuple(found)


def mask_moves(notes: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the share of the mask that flipped in training, and S early in it. None without a
    curve of both.

    A weight that flips twice counts twice. S is the sum of |w| of the kept weights over that of all
    weights.
    """
    with contextlib.suppress(KeyError, TypeError, ValueError, IndexError):
        curve = notes["curve"]
        last = curve[-1]
        # Older records have the flips of the last update before each point of the curve instead of
        # all so far.
        if "flipped" in last:
            flips = float(last["flipped"])
        else:
            flips = sum(float(point["flips"]) for point in curve)
        early = EARLY * float(last["step"])
        return flips, next(float(point["S"]) for point in curve if float(point["step"]) >= early)
    return None


def facts_of(rows: Sequence[Row]) -> list[str]:
    """Return what a label says of the line with these rows, beside the method's name."""
    parts = list(dict.fromkeys(remark for row in rows for remark in row.get("remarks", ())))
    moves = {row["record"]: row["mask"] for row in rows if row.get("mask")}.values()
    if moves:
        flips, early = (sum(values) / len(moves) for values in zip(*moves, strict=True))
        share = f"{flips:.0%}" if flips >= 0.1 else f"{100 * flips:.2g}%"
        parts.append(f"{share} of the mask flipped, S {early:.2f} after a tenth")
    return parts


def quantizer_of_file(file: QuantizedFile) -> str:
    """Return the name of the row of a file, in the column of quantizers."""
    return f"{file.format}{FILE}"


def is_file(labels: Mapping[str, str]) -> bool:
    """Return whether a row's labels are those of a quantized file."""
    return labels["quantizer"].endswith(FILE)


def _file_rows(record: Record, rows: Sequence[Row], file: QuantizedFile | None) -> Iterator[Row]:
    identity = record.identity
    if (
        not file
        or (identity.stages, identity.quantizer) != (("dense",), "none")
        or record.status != "ok"
    ):
        return
    name = quantizer_of_file(file)
    sizes = {
        "bits_per_weight": file.bits,
        metrics.SIZE: float(file.bytes),
        "bytes": float(file.bytes),
    }
    parameters = [row["value"] for row in rows if row["metric"] == "parameters"]
    if parameters:
        sizes[BITS_PER_PARAMETER] = 8 * file.bytes / parameters[0]
    for row in rows:
        # A file does not share the speed of the model that was dequantized from it.
        if identity.subject != "timing":
            value = sizes.get(row["metric"], row["value"])
            own = identity.model_copy(update={"quantizer": name})
            yield row | {"quantizer": name, "identity": own, "value": value}
