"""Formats of the embedding and of the head of a quantized model, by their names in the section
`embeddings` of the catalog.

A format is a function from a weight [rows, width] to its stored form. It needs no calibration.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.contract.codec import StoredWeight
from methods.workshop.quantizing import weight_formats
from methods.workshop.quantizing.weight_formats import Format

ROWS = 4096
"""Rows that are rounded at once. No scale covers two rows."""


def int8(weight: Tensor) -> StoredWeight:
    """Round to integers of 8 bits, one scale for each row."""
    return _round(weight, weight_formats.INT8)


def int4(weight: Tensor) -> StoredWeight:
    """Round to integers of 4 bits, one scale for up to 128 values of a row."""
    return _round(weight, weight_formats.INT4)


def _round(weight: Tensor, form: Format) -> StoredWeight:
    """Round some rows at a time, because float32 temporaries take eight times the weight."""
    codec = form.codec(weight.shape[1], None, "embed")
    pieces = [codec.encode(rows) for rows in weight.split(ROWS)]
    parts = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
    return StoredWeight(codec, parts)
