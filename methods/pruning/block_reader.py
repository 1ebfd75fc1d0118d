"""Blocks of a model that is larger than memory: each is read from disk when its turn comes, and the next one meanwhile."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from torch import Tensor, nn

from methods.contract import Compute
from methods.experts import Expert, experts_of
from methods.folder import Folder


class _Unit(NamedTuple):
    """What is read at once: a block, a block without its experts, or an expert."""

    module: nn.Module
    prefix: str
    """The module's name in the model, and a dot."""
    names: list[str]
    """Of parameters in the module."""

    @property
    def is_on_disk(self) -> bool:
        return any(self.module.get_parameter(name).is_meta for name in self.names)


class BlockReader:
    """Brings blocks from disk to the device, one after the other. While one is in use, a thread reads the next.

        with BlockReader(blocks, "model.layers", folder, compute) as reader:
            for i, block in enumerate(blocks):
                is_from_disk = reader.load(i)
                ...
                if is_from_disk: release(block)

    So about two blocks are in memory at a time. A block whose parameters are not on the meta device stays as it is.

    by_expert: a block of a mixture comes without its experts, which `experts` brings one after the other. So a block without
    its experts is in memory, and two experts.
    """

    def __init__(
        self, blocks: nn.ModuleList, path: str, folder: Path, compute: Compute, by_expert: bool = False
    ) -> None:
        """path: name of the module list in the model; folder: where its weights are."""
        self._compute = compute
        self._units: list[_Unit] = []
        self._begins: list[int] = []  # of each block, the first of its units
        for i, block in enumerate(blocks):
            self._begins.append(len(self._units))
            self._units += _units_of(block, f"{path}.{i}.", by_expert and is_on_disk(block))
        self._begins.append(len(self._units))
        self._folder = Folder(folder) if any(map(is_on_disk, blocks)) else None
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
        """Give a block its parameters, if they are on disk, and have the next to be used read. Returns whether they were."""
        return self._bring(self._begins[index])

    def has_experts(self, index: int) -> bool:
        """Whether the experts of a block are to be brought."""
        return self._begins[index + 1] - self._begins[index] > 1

    def experts(self, index: int) -> Iterator[tuple[int, Expert]]:
        """The experts of a block with their numbers, each in memory until the next is asked for."""
        for number, position in enumerate(range(self._begins[index] + 1, self._begins[index + 1])):
            self._bring(position)
            expert = self._units[position].module
            assert isinstance(expert, Expert)
            yield number, expert
            release(expert)

    def _bring(self, position: int) -> bool:
        unit = self._units[position]
        if not unit.is_on_disk:
            return False
        pending = self._ahead.pop(position, None)
        for name, value in (pending.result() if pending else self._read(unit)).items():
            owner, _, leaf = name.rpartition(".")
            setattr(unit.module.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))
        if position + 1 < len(self._units) and (following := self._units[position + 1]).is_on_disk:
            self._ahead[position + 1] = self._thread.submit(self._read, following)
        return True

    def _read(self, unit: _Unit) -> dict[str, Tensor]:
        assert self._folder is not None
        device, dtype = self._compute.device, self._compute.dtype
        return {name: self._folder.tensor(unit.prefix + name).to(device, dtype) for name in unit.names}


def _units_of(block: nn.Module, prefix: str, by_expert: bool) -> Iterator[_Unit]:
    found = experts_of(block) if by_expert else None
    names = [name for name, _ in block.named_parameters()]
    if not found:
        yield _Unit(block, prefix, names)
        return
    path, experts = found
    yield _Unit(block, prefix, [name for name in names if not name.startswith(f"{path}.")])
    for number, expert in enumerate(experts):
        yield _Unit(expert, f"{prefix}{path}.{number}.", [name for name, _ in expert.named_parameters()])


def is_on_disk(module: nn.Module) -> bool:
    """Whether parameters of it are."""
    return any(p.is_meta for p in module.parameters())


def brings_experts(blocks: nn.ModuleList) -> bool:
    """Whether there are experts on disk, which can be brought one by one."""
    return any(experts_of(block) and is_on_disk(block) for block in blocks)


def release(block: nn.Module) -> None:
    """Forget a block's parameters, and give their memory back to the system: glibc keeps what is freed in small pieces."""
    block.to("meta")
    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)
