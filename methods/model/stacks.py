"""Read and write tensors [entries, ...] of a safetensors file, such as those of all experts, entry
by entry."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from methods.model.header import TORCH_DTYPES, TensorInfo


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the memory of a contiguous tensor on the CPU."""
    return tensor.view(-1).view(torch.uint8).numpy().data


def read_entry(file: Path, info: TensorInfo, number: int) -> Tensor:
    """Read one entry. `get_slice` of a file that is not mapped reads all. Raise OSError or
    ValueError if it is damaged."""
    if info.dtype not in TORCH_DTYPES:
        raise ValueError(f"{file} has a tensor of {info.dtype}, not of {', '.join(TORCH_DTYPES)}")
    entry = torch.empty(info.shape[1:], dtype=getattr(torch, TORCH_DTYPES[info.dtype]))
    with file.open("rb") as stream:
        stream.seek(info.begin + number * entry.nbytes)
        if stream.readinto(bytes_of(entry)) != entry.nbytes:
            raise OSError(f"{file} ended early")
    return entry


class Stacks:
    """A safetensors file of tensors [entries, ...], written in any order and without a copy in
    memory.

    with Stacks(path, {"experts": (8, 4, 4)}, torch.float32) as stacks:
        for number in range(8): stacks.write("experts", number, entry)
    """

    def __init__(
        self, path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype
    ) -> None:
        names = {getattr(torch, name): short for short, name in TORCH_DTYPES.items()}
        self._shapes, self._dtype = dict(shapes), dtype
        self._begins: dict[str, int] = {}
        self._left = {
            (name, number) for name, shape in shapes.items() for number in range(shape[0])
        }
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, shape in shapes.items():
            self._begins[name], end = end, end + math.prod(shape) * dtype.itemsize
            header[name] = {
                "dtype": names[dtype],
                "shape": list(shape),
                "data_offsets": [self._begins[name], end],
            }
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._data = 8 + len(text)
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)

    def write(self, name: str, number: int, entry: Tensor) -> None:
        """Write an entry. Each must be written once."""
        shape = self._shapes[name][1:]
        assert (entry.shape, entry.dtype) == (shape, self._dtype), name
        self._left.remove((name, number))
        memory = bytes_of(entry.detach().cpu().contiguous())
        self._file.seek(self._data + self._begins[name] + number * len(memory))
        self._file.write(memory)

    def __enter__(self) -> Stacks:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is None and self._left:
            raise RuntimeError(f"{len(self._left)} entries of {self._file.name} were not written")
