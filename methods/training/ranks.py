"""One training on several processes: FSDP2 shards and sums over ranks. With one process nothing is sharded."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from methods.targets import stores_in_out


def is_single_process() -> bool:
    """Whether this is the only process."""
    return not (dist.is_available() and dist.is_initialized())


def rank_and_world() -> tuple[int, int]:
    """This process's rank, and the number of processes."""
    return (0, 1) if is_single_process() else (dist.get_rank(), dist.get_world_size())


def shard(root: nn.Module, blocks: Iterable[nn.Module], device: torch.device) -> None:
    """Shard each block, then the rest of `root`. Weights are split between outputs, never inside a group."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    transposed = {id(p) for m in root.modules() if stores_in_out(m) for p in m.parameters() if p.dim() == 2}
    scales = {id(p) for n, p in root.named_parameters() if n.endswith(".scale")}

    def place(parameter: nn.Parameter) -> Shard | None:
        return Shard(1) if id(parameter) in transposed - scales else None

    for block in blocks:
        fully_shard(block, mesh=mesh, shard_placement_fn=place)
    fully_shard(root, mesh=mesh, shard_placement_fn=place)


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor. Every rank must call it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def shard_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """The part of `tensor`, which is not sharded, that corresponds to this rank's part of `parameter`."""
    if not hasattr(parameter, "placements"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements).to_local()  # type: ignore[attr-defined]


def any_rank(*conditions: bool) -> list[bool]:
    """Whether each condition holds on any rank: clocks differ, and all ranks must do the same."""
    return [total > 0 for total in all_reduce_sum(*map(float, conditions))]


def all_reduce_sum(*values: float) -> list[float]:
    """Sums over ranks of values computed on shards."""
    if is_single_process():
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64)
    if dist.get_backend() == "nccl":
        sums = sums.cuda()
    dist.all_reduce(sums)
    return [float(v) for v in sums]


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """The mean over ranks of a tensor that each has."""
    if is_single_process():
        return tensor
    tensor = tensor.clone()
    dist.all_reduce(tensor)
    return tensor / dist.get_world_size()
