"""One calibration shared by several processes: each runs some of the sequences, and changes some of the targets.

Statistics are sums over tokens, so those of the whole are the sums over processes. They differ from one process's in
rounding alone.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from methods.errors import UserError

PART = 2**22
"""Numbers that are added up at a time: what sends them keeps a copy."""


class Sharing:
    """This process among those that share a calibration. Alone it has all of it, and sends nothing.

    Every process must call its methods in the same order.
    """

    def __init__(self, device: torch.device, rank: int = 0, world: int = 1) -> None:
        """device: of what is sent."""
        self.rank, self.world, self._device = rank, world, device

    @classmethod
    def found(cls, device: torch.device) -> Sharing:
        """With all processes of torch.distributed, where it is initialized; else alone."""
        is_alone = not (dist.is_available() and dist.is_initialized())
        return cls(device) if is_alone else cls(device, dist.get_rank(), dist.get_world_size())

    def batches(self, tokens: Tensor, batch: int) -> list[Tensor]:
        """This process's part of the sequences [sequences, seqlen], `batch` of them in each, in order.

        These are batches that one process would have, so that its forward passes are the same; smaller ones only where
        they would be fewer than the processes.

        Raises:
            UserError: fewer sequences than processes.
        """
        if len(tokens) < self.world:
            raise UserError(
                f"{self.world} processes cannot share {len(tokens)} calibration sequences: use at most a process for each"
            )
        enough = -(-len(tokens) // batch) >= self.world
        parts = tokens.split(batch if enough else len(tokens) // self.world)
        first, end = (len(parts) * r // self.world for r in (self.rank, self.rank + 1))
        return list(parts[first:end])

    def divide(self, costs: Mapping[str, float]) -> dict[str, int]:
        """Which process takes each piece of work: the dearest first, to whoever has least."""
        loads = [0.0] * self.world
        owners = {}
        for name in sorted(costs, key=costs.__getitem__, reverse=True):
            owners[name] = loads.index(min(loads))
            loads[owners[name]] += costs[name]
        return owners

    def add_up(self, tensor: Tensor, owners: Collection[int]) -> Tensor:
        """The sum over processes, at the owners; it may take the tensor's place. Elsewhere what is returned means nothing."""
        if self.world == 1 or not tensor.numel():
            return tensor
        tensor = tensor.contiguous()
        for part in tensor.view(-1).split(PART):
            if len(owners) == 1:
                dist.reduce(part, dst=next(iter(owners)))
            else:
                dist.all_reduce(part)
        return tensor

    def join_rows(self, rows: Tensor, counts: list[int], owners: Collection[int]) -> Tensor:
        """At the owners, the rows [n, width] of all processes, in their order. counts: n of each process."""
        if self.world == 1:
            return rows
        start = sum(counts[: self.rank])
        whole = rows.new_zeros(sum(counts), rows.shape[1])
        whole[start : start + len(rows)] = rows
        return self.add_up(whole, owners)

    def send_(self, tensor: Tensor, owner: int) -> None:
        """Set the tensor, everywhere, to the owner's bits."""
        if self.world == 1:
            return
        sent = tensor.contiguous()
        dist.broadcast(sent.view(-1).view(torch.uint8), src=owner)
        if sent is not tensor:
            tensor.copy_(sent)

    def gather(self, value: Any) -> list[Any]:
        """A JSON value of each process, in their order."""
        if self.world == 1:
            return [value]
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(self._device)
        sizes = [int(size) for size in self._all(torch.tensor([len(text)], device=self._device))]
        padded = text.new_zeros(max(sizes))
        padded[: len(text)] = text
        every = self._all(padded)
        return [json.loads(bytes(one[:size].tolist())) for one, size in zip(every, sizes, strict=True)]

    def _all(self, tensor: Tensor) -> list[Tensor]:
        every = [torch.empty_like(tensor) for _ in range(self.world)]
        dist.all_gather(every, tensor)
        return every
