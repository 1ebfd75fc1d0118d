"""Numbers of a size that are derived when a record is read: bits per parameter, and the bits of an
unstructured pattern as its non-zeros and a mask of one bit per weight."""

from __future__ import annotations

import re

from bench.results.metrics import SIZE
from bench.results.record import ReadingRow, Record

BITMAP = "bits_with_bitmap"
BITS = "bits_per_weight"
BITS_PER_PARAMETER = "bits_per_parameter"
"""Stored bits of the whole model over the number of its parameters."""


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
    derived = {}
    if values.get("parameters") and SIZE in values:
        derived[BITS_PER_PARAMETER] = 8 * values[SIZE] / values["parameters"]
    if is_sparse and BITMAP not in values and {BITS, "sparsity"} <= values.keys():
        derived[BITMAP] = bits_with_bitmap(values[BITS], 0, values["sparsity"])
    found = [ReadingRow(metric=m, value=v, unit="1", better="lower") for m, v in derived.items()]
    return [*readings, *found]
