"""packed24 folders, as `bench export` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.formats.checkpoint import Checkpoint, StoredBytes, stored_plain
from bench.kernels.folder24 import Folder24
from methods.model.header import read_header


class Packed24Checkpoint(Checkpoint):
    """A packed24 folder. Its packed weights are stored without their zeros. A damaged one raises
    UserError."""

    is_packed = True

    def __init__(self, path: Path) -> None:
        folder = Folder24(path)
        super().__init__(folder)
        self._entries = folder.entries
        kinds = sorted({entry.kind for entry in self._entries.values()} - {"dense"})
        self.form = f"packed24 ({', '.join(kinds) or 'nothing packed'})"
        self.is_quantized = bool({"int8", "int4"} & set(kinds))

    @property
    def config(self) -> dict[str, Any]:
        return self.folder.config

    def stored(self) -> dict[str, StoredBytes]:
        sizes: dict[str, dict[str, StoredBytes]] = {}
        for file in {
            part.file for entry in self._entries.values() for part in entry.parts.values()
        }:
            found = read_header(self.path, file)
            sizes[file] = stored_plain(
                {n: i.shape for n, i in found.items()}, {n: i.dtype for n, i in found.items()}
            )
        out = {}
        for name, entry in self._entries.items():
            parts = {
                part: sizes[where.file][name if part == "dense" else f"{name}.{part}"].values
                for part, where in entry.parts.items()
            }
            scales = parts.pop("scales", 0)
            out[name] = StoredBytes(sum(parts.values()), scales)
        return out
