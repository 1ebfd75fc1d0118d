"""One training on several processes: FSDP2 shards and sums over ranks. With one process nothing is
sharded."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

WRITE_TIMEOUT = timedelta(days=1)
"""Timeout for a rank that writes a checkpoint to a slow disk. A dead rank is noticed at once."""


def is_single_process() -> bool:
    """Return whether this is the only process."""
    return not (dist.is_available() and dist.is_initialized())


def rank_and_world() -> tuple[int, int]:
    """Return this process's rank, and the number of processes."""
    return (0, 1) if is_single_process() else (dist.get_rank(), dist.get_world_size())


def group_of_threads() -> Any:
    """Return a new process group on the CPU, for a thread of each rank, or None for one process.
    Every rank must call it."""
    return None if is_single_process() else dist.new_group(backend="gloo", timeout=WRITE_TIMEOUT)


def shard(root: nn.Module, blocks: Iterable[nn.Module], device: torch.device) -> None:
    """Shard a model in training: each block, then the rest of `root`. Weights are split between
    outputs, never inside a group.

    Each becomes float32 just before it is split, so no rank holds more than a block of a model
    whose weights are mapped from files. They are gathered in float32, unless `rounded_rows` changes
    that.
    """
    from torch.distributed.fsdp import fully_shard

    mesh = _mesh(device)
    for module in (*blocks, root):
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point() and not is_sharded(tensor):
                tensor.data = tensor.data.float().contiguous()
        fully_shard(module, mesh=mesh)


def shard_frozen(
    root: nn.Module, blocks: Iterable[nn.Module], device: torch.device, dtype: torch.dtype
) -> None:
    """Shard the blocks of a model that is not trained. Every rank has the tensors outside the
    blocks."""
    from torch.distributed.fsdp import fully_shard

    mesh = _mesh(device)
    for block in blocks:
        _move(block, device, dtype)
        fully_shard(block, mesh=mesh)
    rest = {p for p in root.parameters() if not is_sharded(p)}
    _move(root, device, dtype)
    fully_shard(root, mesh=mesh, ignored_params=rest)  # it gathers each block before its turn


def _mesh(device: torch.device) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device.type, (dist.get_world_size(),))


def _move(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    for parameter in module.parameters():
        if not is_sharded(parameter):
            parameter.data = parameter.data.to(device, dtype).contiguous()
    for buffer in module.buffers():
        buffer.data = buffer.data.to(device)


def is_sharded(tensor: Tensor) -> bool:
    """Return whether this rank has only a part of a tensor."""
    return hasattr(tensor, "placements")


def local(tensor: Tensor) -> Tensor:
    """Return this rank's part of a sharded tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the whole of a sharded tensor. Every rank must call it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def shard_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Return the part of `tensor`, which is not sharded, that corresponds to this rank's part of
    `parameter`."""
    if not is_sharded(parameter):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements).to_local()  # type: ignore[attr-defined]


def any_rank(*conditions: bool) -> list[bool]:
    """Return whether each condition holds on any rank. Clocks differ, and all ranks must do the
    same."""
    return [total > 0 for total in all_reduce_sum(*map(float, conditions))]


def all_reduce_sum(*values: float) -> list[float]:
    """Return sums over ranks of values computed on shards."""
    if is_single_process():
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64)
    if dist.get_backend() == "nccl":
        sums = sums.cuda()
    dist.all_reduce(sums)
    return [float(v) for v in sums]


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """Return the mean over ranks of a tensor that each rank has."""
    if is_single_process():
        return tensor
    tensor = tensor.clone()
    dist.all_reduce(tensor)
    return tensor / dist.get_world_size()
