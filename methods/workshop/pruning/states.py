"""Lists of the activations of all calibration tokens, one tensor per batch, in memory or in a
file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from methods.model.stacks import bytes_of


class StatesInMemory(list[Tensor]):
    """A list of tensors with access to their rows."""

    def rows(self, index: int, which: Tensor) -> Tensor:
        """Return a copy of rows of a tensor [rows, width]. which: int64 [n]."""
        return self[index][which]

    def add_rows(self, index: int, which: Tensor, values: Tensor) -> None:
        """Add to rows of a tensor. which: int64 [n], distinct; values: [n, width]."""
        self[index].index_add_(0, which, values)


class StatesOnDisk:
    """The same list in an unnamed temporary file. Only one tensor is in memory at a time.

    A tensor can be replaced only by one of its dtype and shape.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  open as long as this list
        self._entries: list[tuple[int, torch.dtype, torch.Size]] = []
        self._end = 0

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, tensor: Tensor) -> None:
        self._entries.append((self._end, tensor.dtype, tensor.shape))
        self._end += tensor.nbytes
        self[len(self) - 1] = tensor

    def __setitem__(self, index: int, tensor: Tensor) -> None:
        start, dtype, shape = self._entries[index]
        assert (tensor.dtype, tensor.shape) == (dtype, shape)
        self._write(start, bytes_of(tensor.contiguous()))

    def __getitem__(self, index: int) -> Tensor:
        start, dtype, shape = self._entries[index]
        tensor = torch.empty(shape, dtype=dtype)
        self._read(start, bytes_of(tensor))
        return tensor

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def rows(self, index: int, which: Tensor) -> Tensor:
        """See StatesInMemory. Reads no other row."""
        start, dtype, shape = self._entries[index]
        out = torch.empty((len(which), shape[1]), dtype=dtype)
        size = shape[1] * dtype.itemsize
        for row, number in zip(out, which.tolist(), strict=True):
            self._read(start + number * size, bytes_of(row))
        return out

    def add_rows(self, index: int, which: Tensor, values: Tensor) -> None:
        """See StatesInMemory. Writes no other row."""
        start, dtype, shape = self._entries[index]
        size = shape[1] * dtype.itemsize
        for row, number in zip(self.rows(index, which).add_(values), which.tolist(), strict=True):
            self._write(start + number * size, bytes_of(row))

    def _read(self, start: int, memory: memoryview) -> None:
        while memory:
            count = os.preadv(self._file.fileno(), [memory], start)
            if not count:
                raise OSError("activations on disk ended early")
            start, memory = start + count, memory[count:]

    def _write(self, start: int, memory: memoryview) -> None:
        while memory:
            count = os.pwrite(self._file.fileno(), memory, start)
            start, memory = start + count, memory[count:]


States = StatesInMemory | StatesOnDisk
