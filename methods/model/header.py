"""Headers of safetensors files. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from methods.contract.errors import UserError
from methods.model.safe_files import find_file, parse_object

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
        with safe_open(file, framework="np"):
            pass  # the library checks all sizes and offsets
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = parse_object(stream.read(length))
        header.pop("__metadata__", None)
        strange = next((n for n, about in header.items() if about["dtype"] not in DTYPE_BITS), "")
        if strange:
            raise ValueError(f"torch cannot read {header[strange]['dtype']}, as of {strange!r}")
    except (OSError, ValueError, SafetensorError) as fault:
        raise UserError(
            f"cannot read {folder / name} as safetensors ({fault}): download or write it again"
        ) from None
    return {
        tensor: TensorInfo(
            about["dtype"], tuple(about["shape"]), 8 + length + about["data_offsets"][0]
        )
        for tensor, about in header.items()
    }
