"""A model from another tool, read tensor by tensor as a plain model, with the bytes that its files
take."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.inputs import architecture
from bench.system import digests
from methods.contract.errors import UserError
from methods.model.folder import Folder
from methods.model.header import DTYPE_BITS
from methods.model.safe_files import check_files

if TYPE_CHECKING:
    from torch import Tensor

QUANTIZATION_KEYS = ("quantization_config", "compression_config")
"""Keys of config.json that describe quantized weights."""
CONTENT_SUFFIXES = (".safetensors", ".json", ".model", ".jinja", ".gguf")
"""Suffixes of the files that decide a number."""
QUANT_METHOD = "cast-bench"
"""Value of quant_method in config.json of a folder of stored weights."""
STORED = "stored"
"""Subfolder with the stored weights of a quantized model."""
ADAPTER = "adapter_config.json"


class StoredBytes(NamedTuple):
    """Bytes that one tensor takes in the files."""

    values: int
    others: int = 0
    """Bytes of scales, zero points and indices."""


class Checkpoint:
    """A safetensors folder, with names of the model's state dict. Other formats derive from it and
    give the same view."""

    form = "safetensors"
    """Format in words, for the record."""
    is_quantized = False
    is_packed = False
    """True if the bits of its values are those of the files: these leave pruned weights out, or
    store zeros like other weights."""
    activations = ""
    """Rounding of the inputs of `rounded` while the model runs: a name in INPUT_FORMATS, or ""."""
    rounded: tuple[str, ...] = ()
    """Module names of the linears whose inputs are rounded."""

    def __init__(self, folder: Folder) -> None:
        self.folder, self.path = folder, folder.path

    def check(self) -> None:
        """Raise UserError if the tensors do not fit the config."""
        architecture.check(self, any_dtype=True)
        architecture.check_head(self.folder)

    @property
    def config(self) -> dict[str, Any]:
        """The config without the keys that describe quantized weights."""
        return {k: v for k, v in self.folder.config.items() if k not in QUANTIZATION_KEYS}

    @property
    def is_tied(self) -> bool:
        return self.folder.is_tied

    def __iter__(self) -> Iterator[str]:
        return iter(self.folder)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each tensor of the plain model."""
        return self.folder.shapes()

    def dtypes(self) -> dict[str, str]:
        """Return the dtype of each tensor of the plain model, by its name in safetensors."""
        return self.folder.dtypes()

    def tensor(self, name: str) -> Tensor:
        """Read one tensor of the plain model, on the CPU."""
        return self.folder.tensor(name)

    def stored(self) -> dict[str, StoredBytes]:
        """Return the bytes that each tensor takes in the files."""
        return stored_plain(self.folder.shapes(), self.folder.dtypes())

    def weight(self, target: str) -> Tensor:
        """Read the weight of a linear, [out, in]."""
        return self.tensor(f"{target}.weight")


def stored_plain(
    shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, str]
) -> dict[str, StoredBytes]:
    """Return the bytes of tensors that are stored one by one."""
    return {
        name: StoredBytes(math.prod(shape) * DTYPE_BITS[dtypes[name]] // 8)
        for name, shape in shapes.items()
    }


def content_digest(path: Path) -> str:
    """Return the digest of the regular files that decide a number: weights, config and
    tokenizer."""
    if path.is_file():
        return digests.of_file(path)
    if not path.is_dir():
        raise UserError(f"model folder {str(path)!r} does not exist: check the path")
    check_files(path)
    files = sorted(f for f in path.iterdir() if f.name.endswith(CONTENT_SUFFIXES) and f.is_file())
    if (path / STORED).is_dir():
        check_files(path / STORED)
        files += sorted(f for f in (path / STORED).iterdir() if f.is_file())
    return digests.of({f.relative_to(path).as_posix(): digests.of_file(f) for f in files})
