"""Bits of an unstructured pattern as its non-zeros and a mask of one bit per weight, derived when a
record is read."""

from __future__ import annotations

import re

from bench.results.record import ReadingRow, Record

BITMAP = "bits_with_bitmap"
BITS = "bits_per_weight"


def bits_with_bitmap(bits: float, scales: float, sparsity: float) -> float:
    """Return the bits per weight of non-zeros with a mask. bits: of one value; scales: bits of all
    scales per weight."""
    return bits * (1 - sparsity) + 1 + scales


def read(record: Record) -> list[ReadingRow]:
    """Return the readings of a record, with those that are derived."""
    identity, readings = record.identity, record.readings
    if identity.measure != "size" or record.status != "ok":
        return readings
    values = {r.metric: r.value for r in readings if r.value is not None}
    is_sparse = re.match("[0-9.]+%", identity.pattern) and identity.quantizer == "none"
    if is_sparse and BITMAP not in values and {BITS, "sparsity"} <= values.keys():
        bits = bits_with_bitmap(values[BITS], 0, values["sparsity"])
        readings = [*readings, ReadingRow(metric=BITMAP, value=bits, unit="1", better="lower")]
    return readings
