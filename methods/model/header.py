"""Headers of safetensors files, checked against the size of the file. Needs no torch."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from methods.contract.errors import UserError
from methods.model.safe_files import MAX_JSON_BYTES, find_file, parse_object

DTYPE_BITS = {
    **dict.fromkeys(
        ("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8
    ),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}
"""Bits of a value, by dtype of the format. torch cannot read the format's dtypes of 4 and 6
bits."""
TORCH_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""torch's names of the dtypes that weights have."""
MAX_DIMENSIONS = 8


class TensorInfo(NamedTuple):
    """One tensor as a safetensors header describes it."""

    dtype: str
    """Name of the dtype in the format, for example "BF16"."""
    shape: tuple[int, ...]
    begin: int = 0
    """Offset of its first byte in the file."""


def read_header(folder: Path, name: str) -> dict[str, TensorInfo]:
    """Return the tensors of a safetensors file, by its header. Needs no torch.

    Raises:
        UserError: the file is not safetensors, is incomplete, or has a dtype that torch cannot
            read.
    """
    try:
        file = find_file(folder, name, None)
        if file is None:
            raise ValueError("no such file")
        with file.open("rb") as stream:
            size = file.stat().st_size - 8
            length = int.from_bytes(stream.read(8), "little")
            if length > min(size, MAX_JSON_BYTES):
                if length > size:
                    raise ValueError("incomplete file")
                raise ValueError(f"its header has {length:,} bytes")
            text = stream.read(length)
        header = parse_object(text)
        notes = header.pop("__metadata__", {})
        has_notes = isinstance(notes, dict) and all(isinstance(v, str) for v in notes.values())
        if not (text.startswith(b"{") and has_notes):
            raise ValueError("invalid header")
        spans = sorted(_span(tensor, about) for tensor, about in header.items())
        ends = [(0, 0), *spans, (size - length, size - length)]
        if any(before[1] != after[0] for before, after in pairwise(ends)):
            raise ValueError("incomplete file, or its tensors overlap")
    except (OSError, ValueError) as fault:
        raise UserError(
            f"cannot read {folder / name} as safetensors ({fault}): download or write it again"
        ) from None
    return {
        tensor: TensorInfo(
            about["dtype"], tuple(about["shape"]), 8 + length + about["data_offsets"][0]
        )
        for tensor, about in header.items()
    }


def _span(tensor: str, about: Any) -> tuple[int, int]:
    """Return the offsets of a tensor's first byte and of the byte after it. Raise ValueError if its
    entry is not valid."""
    match about:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end]} if (
            dtype in DTYPE_BITS
            and all(type(number) is int and number >= 0 for number in (*shape, begin, end))
        ):
            small = (
                len(shape) <= MAX_DIMENSIONS and math.prod(max(1, size) for size in shape) < 2**56
            )
            if small and math.prod(shape) * DTYPE_BITS[dtype] == 8 * (end - begin):
                return begin, end
    raise ValueError(f"invalid entry of {tensor!r}")
