"""A model folder whose quantized weights are stored by codecs alone, as `bench export --format
stored` writes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from bench.formats.checkpoint import Checkpoint, StoredBytes, stored_plain
from bench.formats.stored import StoredFolder
from methods.contract.errors import UserError
from methods.model.folder import Folder
from methods.model.header import TORCH_DTYPES

if TYPE_CHECKING:
    from torch import Tensor


class StoredCheckpoint(Checkpoint):
    """A folder of stored weights, each read as a plain weight in the dtype of the model. A damaged
    one raises UserError."""

    is_quantized = True
    is_packed = True

    def __init__(self, folder: Folder) -> None:
        super().__init__(folder)
        self.weights = StoredFolder(folder.path)
        both = sorted(name for name in folder if name.removesuffix(".weight") in self.weights)
        if both:
            raise UserError(
                f"{self.path} has {both[0]} stored twice: write it again with bench export "
                "--format stored"
            )
        self.form = f"stored ({self.weights.count().form})"

    def __iter__(self) -> Iterator[str]:
        yield from self.folder
        yield from (f"{target}.weight" for target in self.weights)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self.folder.shapes() | {
            f"{target}.weight": self.weights.shape(target) for target in self.weights
        }

    def dtypes(self) -> dict[str, str]:
        wide = next(short for short, name in TORCH_DTYPES.items() if name == self._dtype)
        return self.folder.dtypes() | {f"{target}.weight": wide for target in self.weights}

    @property
    def _dtype(self) -> str:
        """Number format of the model, in which its weights were measured."""
        return str(self.folder.config.get("dtype", "float32"))

    def tensor(self, name: str) -> Tensor:
        import torch

        target = name.removesuffix(".weight")
        if target not in self.weights:
            return self.folder.tensor(name)
        return self.weights.weight(target).to(getattr(torch, self._dtype))

    def stored(self) -> dict[str, StoredBytes]:
        plain = stored_plain(self.folder.shapes(), self.folder.dtypes())
        return plain | {
            f"{target}.weight": StoredBytes(*self.weights.sizes(target)) for target in self.weights
        }
