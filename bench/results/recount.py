"""Counts of bits that are derived when a record is read. The stored numbers are never changed.

Two rules. hqq's scales and zero points were counted in float32, and are counted in float16 now, as its models store them.
An unstructured pattern can also be stored as its non-zeros and a mask of one bit per weight.
"""

from __future__ import annotations

import math
import re

from bench.results.record import ReadingRow, Record

BITMAP = "bits_with_bitmap"
BITS, PACKED = "bits_per_weight", "bytes_packed"
SCALE_BITS = "scale_bits"
"""Note of a record of size: bits of one scale with its zero point. Older records lack it."""
HQQ_BITS = 4
"""Bits of a value of hqq in the older records."""


def bits_with_bitmap(bits: float, scales: float, sparsity: float) -> float:
    """Return the bits per weight of non-zeros with a mask of one bit per weight.

    Args:
        bits: bits of one value.
        scales: bits of all scales per weight.
    """
    return bits * (1 - sparsity) + 1 + scales


def read(record: Record) -> list[ReadingRow]:
    """Return the readings of a record, with those that are derived."""
    identity, readings = record.identity, record.readings
    if identity.measure != "size" or record.status != "ok":
        return readings
    values = {r.metric: r.value for r in readings if r.value is not None}
    if identity.quantizer.split(":")[0] == "hqq" and SCALE_BITS not in record.notes:
        readings = [r.model_copy(update=_recounted(r.metric, values)) for r in readings]
    is_sparse = re.match("[0-9.]+%", identity.pattern) and identity.quantizer == "none"
    if is_sparse and BITMAP not in values and {BITS, "sparsity"} <= values.keys():
        bits = bits_with_bitmap(values[BITS], 0, values["sparsity"])
        readings = [*readings, ReadingRow(metric=BITMAP, value=bits, unit="1", better="lower")]
    return readings


def _recounted(metric: str, values: dict[str, float]) -> dict[str, float]:
    """Return the new value of a reading whose scales take half of the bits that were counted, else nothing."""
    if metric not in (BITS, PACKED) or not {BITS, PACKED, "bytes", "parameters"} <= values.keys():
        return {}
    saved = (values[BITS] - HQQ_BITS) / 2
    if metric == BITS:
        return {"value": values[BITS] - saved}
    stored = 8 * values["bytes"] / max(1, values["parameters"])
    if stored == values[BITS]:
        return {}
    weights = 8 * (values["bytes"] - values[PACKED]) / (stored - values[BITS])
    return {"value": float(math.ceil(values[PACKED] - weights * saved / 8))}
