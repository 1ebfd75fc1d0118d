"""packed24 folders, as `bench export` writes them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.formats.checkpoint import Checkpoint, StoredBytes
from bench.kernels.folder24 import Folder24
from methods.header import DTYPE_BITS, read_header

if TYPE_CHECKING:
    from torch import Tensor


class Packed24Checkpoint(Checkpoint):
    """A packed24 folder. Its packed weights are stored without their zeros. A damaged one raises UserError."""

    is_packed = True

    def __init__(self, path: Path) -> None:
        self.path, self._opened = path, Folder24(path)
        kinds = sorted({entry.kind for entry in self._opened.entries.values()} - {"dense"})
        self.form = f"packed24 ({', '.join(kinds) or 'nothing packed'})"
        self.is_quantized = bool({"int8", "int4"} & set(kinds))

    @property
    def config(self) -> dict[str, Any]:
        return self._opened.config

    @property
    def is_tied(self) -> bool:
        return self._opened.is_tied

    def __iter__(self) -> Iterator[str]:
        return iter(self._opened)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self._opened.shapes()

    def dtypes(self) -> dict[str, str]:
        return self._opened.dtypes()

    def tensor(self, name: str) -> Tensor:
        return self._opened.tensor(name)

    def stored(self) -> dict[str, StoredBytes]:
        headers: dict[str, dict[str, int]] = {}
        out = {}
        for name, entry in self._opened.entries.items():
            sizes = {}
            for part, where in entry.parts.items():
                if where.file not in headers:
                    found = read_header(self.path, where.file)
                    headers[where.file] = {
                        n: math.prod(info.shape) * DTYPE_BITS[info.dtype] // 8 for n, info in found.items()
                    }
                sizes[part] = headers[where.file][name if part == "dense" else f"{name}.{part}"]
            scales = sizes.pop("scales", 0)
            out[name] = StoredBytes(sum(sizes.values()), scales)
        return out
