"""A reader: the plain weights of a model that another program wrote."""

from pathlib import Path

from torch import Tensor

from bench.formats.contract import Checkpoint, Reader
from methods.model.folder import Folder


class HalvedCheckpoint(Checkpoint):
    """Safetensors whose numbers are half as large as the model's."""

    form = "halved"

    def tensor(self, name: str) -> Tensor:
        return 2 * self.folder.tensor(name)


class Halved(Reader):
    """A folder with a file halved.txt."""

    def owns(self, path: Path) -> bool:
        return (path / "halved.txt").is_file()

    def open(self, path: Path, original: Folder | None) -> Checkpoint:
        return HalvedCheckpoint(Folder(path))
