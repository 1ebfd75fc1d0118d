"""Read the blocks of a model larger than memory, each when its turn comes, and the next one
meanwhile."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from methods.contract.method import Compute
from methods.model.experts import Expert, experts_of
from methods.model.folder import Folder


class _Unit(NamedTuple):
    """Parameters that are read together: those of a block, of a block without its experts, or of an
    expert."""

    module: nn.Module
    prefix: str
    """The module's name in the model, and a dot."""
    names: list[str]
    """Names of the parameters in the module."""


class BlockReader:
    """Brings blocks from disk to the device, one after the other. While one is in use, a thread
    reads the next.

        with BlockReader(blocks, "model.layers", folder, compute) as reader:
            for i, block in enumerate(blocks):
                reader.load(i)
                ...
                release(block)

    So about two blocks are in memory at a time. With `by_expert`, `load` leaves out the experts of
    a mixture, and `experts`
    brings them one after the other: a block without its experts and two experts are in memory.
    """

    def __init__(
        self,
        blocks: nn.ModuleList,
        path: str,
        folder: Path,
        compute: Compute,
        by_expert: bool = False,
    ) -> None:
        """path: name of the module list in the model; folder: where its weights are."""
        self._compute, self._folder = compute, Folder(folder)
        self._units: list[_Unit] = []
        self._starts: list[int] = []  # index of the first unit of each block
        for i, block in enumerate(blocks):
            self._starts.append(len(self._units))
            self._units += _units_of(block, f"{path}.{i}.", by_expert)
        self._starts.append(len(self._units))
        self._thread = ThreadPoolExecutor(1)
        self._ahead: dict[int, Future[dict[str, Tensor]]] = {}

    def __enter__(self) -> BlockReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)
        self._ahead.clear()

    def load(self, index: int) -> None:
        """Give a block its parameters, and start to read the next ones."""
        self._load(self._starts[index])

    def experts(self, index: int) -> Iterator[tuple[int, nn.Module]]:
        """Yield the experts of a block with their numbers. Each is in memory until the next one is
        asked for."""
        for number, position in enumerate(range(self._starts[index] + 1, self._starts[index + 1])):
            self._load(position)
            expert = self._units[position].module
            yield number, expert
            release(expert)

    @contextlib.contextmanager
    def expert(self, index: int, number: int) -> Iterator[Expert]:
        """Hold one expert of a block. Read no other ahead."""
        position = self._starts[index] + 1 + number
        self._load(position, ahead=False)
        expert = self._units[position].module
        assert isinstance(expert, Expert)
        yield expert
        release(expert)

    def _load(self, position: int, *, ahead: bool = True) -> None:
        unit = self._units[position]
        pending = self._ahead.pop(position, None)
        # What was read ahead for another order would stay in memory.
        self._ahead.clear()
        values = pending.result() if pending else self._read(unit)
        for name, value in values.items():
            owner, _, leaf = name.rpartition(".")
            setattr(
                unit.module.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False)
            )
        if ahead and position + 1 < len(self._units):
            self._ahead[position + 1] = self._thread.submit(self._read, self._units[position + 1])

    def _read(self, unit: _Unit) -> dict[str, Tensor]:
        device, dtype = self._compute.device, self._compute.dtype
        return {
            name: self._folder.tensor(unit.prefix + name).to(device, dtype) for name in unit.names
        }


def _units_of(block: nn.Module, prefix: str, by_expert: bool) -> Iterator[_Unit]:
    found = experts_of(block) if by_expert else None
    stored = block.state_dict()
    # Not the factors of low-rank terms.
    names = [name for name, _ in block.named_parameters() if name in stored]
    if not found:
        yield _Unit(block, prefix, names)
        return
    path, experts = found
    yield _Unit(block, prefix, [name for name in names if not name.startswith(f"{path}.")])
    for number, expert in enumerate(experts):
        yield _Unit(
            expert, f"{prefix}{path}.{number}.", [name for name, _ in expert.named_parameters()]
        )


def release(block: nn.Module) -> None:
    """Drop a block's parameters and return their memory to the system. glibc keeps what is freed in
    small pieces."""
    block.to("meta")
    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)
