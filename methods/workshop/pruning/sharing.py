"""Processes that share one calibration: each runs some of the sequences and changes some of the
targets.

A statistic is a sum over tokens, so the whole statistic is the sum over processes. It differs from
that of one process by rounding only.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pkgutil import resolve_name
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from methods.contract.codec import StoredWeight
from methods.contract.errors import UserError
from methods.model.folder import dtype_name

REDUCE_ENTRIES = 2**22
"""Entries that are summed over processes at a time. The backend keeps a copy of them."""


class Sharing:
    """This process among those that share a calibration. With a world of 1 it does all the work and
    sends nothing.

    Every process must call its methods in the same order.
    """

    def __init__(self, device: torch.device, rank: int = 0, world: int = 1) -> None:
        """device: where tensors to send are."""
        self.rank, self.world, self._device = rank, world, device

    @classmethod
    def found(cls, device: torch.device) -> Sharing:
        """Return the processes of torch.distributed if it is initialized, else this process
        alone."""
        is_alone = not (dist.is_available() and dist.is_initialized())
        if is_alone:
            return cls(device)
        return cls(device, dist.get_rank(), dist.get_world_size())

    def batches(self, tokens: Tensor, batch: int) -> tuple[list[Tensor], int]:
        """Return this process's sequences in batches, and the number of tokens of processes with a
        lower rank.

        The batches are those of a single process, so that forward passes are the same. They are
        smaller only if there would be fewer batches than processes.

        Args:
            tokens: [sequences, seqlen]; batch: sequences per batch.

        Raises:
            UserError: fewer sequences than processes.
        """
        if len(tokens) < self.world:
            raise UserError(
                f"{self.world} processes cannot share {len(tokens)} calibration sequences: use at "
                f"most {len(tokens)} processes"
            )
        enough = -(-len(tokens) // batch) >= self.world
        parts = tokens.split(batch if enough else len(tokens) // self.world)
        first, end = (len(parts) * r // self.world for r in (self.rank, self.rank + 1))
        return list(parts[first:end]), sum(part.numel() for part in parts[:first])

    def divide(self, costs: Mapping[str, float]) -> dict[str, int]:
        """Assign each piece of work to a rank: the most expensive first, to the rank with the least
        work."""
        loads = [0.0] * self.world
        owners = {}
        for name in sorted(costs, key=costs.__getitem__, reverse=True):
            owners[name] = loads.index(min(loads))
            loads[owners[name]] += costs[name]
        return owners

    def add_up(self, tensor: Tensor, owners: Collection[int]) -> Tensor:
        """Return the sum over processes at the owners, and an undefined value elsewhere. The
        argument may be overwritten."""
        if self.world == 1 or not tensor.numel():
            return tensor
        tensor = tensor.contiguous()
        for part in tensor.view(-1).split(REDUCE_ENTRIES):
            if len(owners) == 1:
                dist.reduce(part, dst=next(iter(owners)))
            else:
                dist.all_reduce(part)
        return tensor

    def join_rows(self, rows: Tensor, counts: list[int], owners: Collection[int]) -> Tensor:
        """Return at the owners the rows [n, width] of all processes, by rank. counts: n of each
        process."""
        if self.world == 1:
            return rows
        start = sum(counts[: self.rank])
        whole = rows.new_zeros(sum(counts), rows.shape[1])
        whole[start : start + len(rows)] = rows
        return self.add_up(whole, owners)

    def send_(self, tensor: Tensor, owner: int) -> None:
        """Set the tensor to the owner's bits at every process."""
        if self.world == 1:
            return
        sent = tensor.contiguous()
        dist.broadcast(sent.view(-1).view(torch.uint8), src=owner)
        if sent is not tensor:
            tensor.copy_(sent)

    def exchange_(self, stored: dict[str, StoredWeight], owners: Mapping[str, int]) -> None:
        """Add the stored weights of the other processes' targets. owners: the rank of each
        target."""
        if self.world == 1:
            return
        mine = {
            name: _describe(stored[name])
            for name, owner in owners.items()
            if owner == self.rank and name in stored
        }
        for name, about in (item for each in self.gather(mine) for item in each.items()):
            parts = {}
            for part, (dtype, shape) in about["parts"].items():
                if name in mine:
                    here = stored[name].parts[part]
                else:
                    here = torch.empty(shape, dtype=getattr(torch, dtype))
                parts[part] = here.to(self._device)
                self.send_(parts[part], owners[name])
            if name not in mine:
                codec = resolve_name(about["class"])(**about["fields"])
                stored[name] = StoredWeight(
                    codec, {part: tensor.cpu() for part, tensor in parts.items()}
                )

    def gather(self, value: Any) -> list[Any]:
        """Return a JSON value of each process, by rank."""
        if self.world == 1:
            return [value]
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(
            self._device
        )
        sizes = [int(size) for size in self._all(torch.tensor([len(text)], device=self._device))]
        padded = text.new_zeros(max(sizes))
        padded[: len(text)] = text
        every = self._all(padded)
        return [
            json.loads(bytes(one[:size].tolist())) for one, size in zip(every, sizes, strict=True)
        ]

    def join_notes(self, notes: dict[str, Any], targets: tuple[str, ...]) -> dict[str, Any]:
        """Return the notes of all processes, dicts by target merged. Raise RuntimeError if another
        note differs."""
        if self.world == 1:
            return notes
        every = self.gather(notes)
        joined: dict[str, Any] = {}
        for key in dict.fromkeys(key for each in every for key in each):
            given = [each[key] for each in every if key in each]
            if all(isinstance(value, dict) and value.keys() <= set(targets) for value in given):
                values = {name: value for each in given for name, value in each.items()}
                joined[key] = {name: values[name] for name in targets if name in values}
            elif (
                len(given) == len(every)
                and len({json.dumps(value, sort_keys=True) for value in given}) == 1
            ):
                joined[key] = given[0]
            else:
                raise RuntimeError(
                    f"note {key!r} differs between the processes of a walk: give it by target, or "
                    "sum it with walk.total"
                )
        return joined

    def _all(self, tensor: Tensor) -> list[Tensor]:
        every = [torch.empty_like(tensor) for _ in range(self.world)]
        dist.all_gather(every, tensor)
        return every


def _describe(stored: StoredWeight) -> dict[str, Any]:
    """Return what another process needs to make a stored weight, but its tensors, as JSON."""
    codec = type(stored.codec)
    return {
        "class": f"{codec.__module__}:{codec.__qualname__}",
        "fields": asdict(stored.codec),  # type: ignore[call-overload]  # a codec is a dataclass
        "parts": {
            part: [dtype_name(tensor.dtype), list(tensor.shape)]
            for part, tensor in stored.parts.items()
        },
    }
