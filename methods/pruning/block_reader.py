"""Blocks of a model that is larger than memory: each is read from disk when its turn comes, and the next one meanwhile."""

from __future__ import annotations

import contextlib
import ctypes
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from torch import Tensor, nn

from methods.contract import Compute
from methods.folder import Folder


class BlockReader:
    """Brings blocks from disk to the device, one after the other. While one is in use, a thread reads the next.

        with BlockReader(blocks, "model.layers", folder, compute) as reader:
            for i, block in enumerate(blocks):
                is_from_disk = reader.load(i)
                ...
                if is_from_disk: release(block)

    So about two blocks are in memory at a time. A block whose parameters are not on the meta device stays as it is.
    """

    def __init__(self, blocks: nn.ModuleList, path: str, folder: Path, compute: Compute) -> None:
        """path: name of the module list in the model; folder: where its weights are."""
        self._blocks, self._path, self._compute = blocks, path, compute
        self._folder = Folder(folder) if any(map(_is_on_disk, blocks)) else None
        self._thread = ThreadPoolExecutor(1)
        self._ahead: dict[int, Future[dict[str, Tensor]]] = {}

    def __enter__(self) -> BlockReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
        self._ahead.clear()

    def load(self, index: int) -> bool:
        """Give a block its parameters, if they are on disk, and have the next block's read. Returns whether they were."""
        block = self._blocks[index]
        if not _is_on_disk(block):
            return False
        pending = self._ahead.pop(index, None)
        for name, value in (pending.result() if pending else self._read(index)).items():
            owner, _, leaf = name.rpartition(".")
            setattr(block.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))
        if index + 1 < len(self._blocks) and _is_on_disk(self._blocks[index + 1]):
            self._ahead[index + 1] = self._thread.submit(self._read, index + 1)
        return True

    def _read(self, index: int) -> dict[str, Tensor]:
        assert self._folder is not None
        device, dtype = self._compute.device, self._compute.dtype
        names = [name for name, _ in self._blocks[index].named_parameters()]
        return {n: self._folder.tensor(f"{self._path}.{index}.{n}").to(device, dtype) for n in names}


def _is_on_disk(block: nn.Module) -> bool:
    return any(p.is_meta for p in block.parameters())


def release(block: nn.Module) -> None:
    """Forget a block's parameters, and give their memory back to the system: glibc keeps what is freed in small pieces."""
    block.to("meta")
    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)
