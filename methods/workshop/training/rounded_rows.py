"""Weights that each process computes and rounds for its own rows before FSDP gathers them.

A weight is float32 and sharded, and autocast rounds it in each product. Rounded before, it takes
half the time to gather, and its scales are multiplied on one shard instead of on every process.
The forward pass has the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from methods.workshop.training.process_group import local


class RowWise(Protocol):
    """A parametrization of a linear's weight in which a row depends on no other row."""

    is_on_shards: bool
    """True if the processes apply it to their rows. Its forward pass then returns its input."""

    def of_rows(self, weight: Tensor, *parameters: Tensor) -> Tensor:
        """Return the value of some rows, from the same rows of the weight and of its
        parameters."""
        ...


class RoundedRows:
    """The rows of a weight on this process, as FSDP gathers them in each pass.

    The two methods that begin with `fsdp_` are those that FSDP calls of a local tensor:
    https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
    """

    def __init__(self, weight: nn.Parameter, part: Any, dtype: torch.dtype) -> None:
        """weight: sharded, float32; part: its RowWise parametrization or None; dtype: of the
        products."""
        self._weight, self._part, self._dtype = weight, part, dtype
        self._parameters: list[nn.Parameter] = list(part.parameters()) if part else []
        if part:
            part.is_on_shards = True
        # FSDP looks for both on this tensor, once, before its first pass. `to_local` of a parameter
        # returns another tensor (torch 2.13 and 2.15), so there is no public way but a subclass of
        # Tensor, which every operation of the optimizers would dispatch.
        rows: Any = weight._local_tensor  # type: ignore[attr-defined]
        rows.fsdp_pre_all_gather = self.fsdp_pre_all_gather
        rows.fsdp_post_all_gather = self.fsdp_post_all_gather

    def fsdp_pre_all_gather(
        self, mesh: Any, outer_size: torch.Size, outer_stride: Any, module: Any, mp_policy: Any
    ) -> tuple[tuple[Tensor], torch.Size]:
        """Return the rounded rows, filled up to the number of rows of the first process."""
        rows = local(self._weight)
        if self._part and len(rows):
            rows = self._part.of_rows(rows, *map(local, self._parameters))
        padded = rows.new_zeros(-(-outer_size[0] // mesh.size()), outer_size[1], dtype=self._dtype)
        padded[: len(rows)] = rows
        return (padded,), outer_size

    def fsdp_post_all_gather(
        self,
        gathered: tuple[Tensor],
        outer_size: torch.Size,
        param_dtype: torch.dtype,
        *,
        out: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor]] | None:
        """Return the whole weight in float32, so that its gradient is summed in float32."""
        if out is None:
            whole = gathered[0].to(param_dtype)
            return whole, (whole,)
        out.data.copy_(gathered[0][: outer_size[0]])
        return None

    def finish_gradient(self) -> None:
        """Replace the gradient of the value that was gathered by those of the weight and of its
        parameters."""
        gradient = self._weight.grad
        if not self._part or gradient is None:
            return
        inputs = [local(p).detach().requires_grad_() for p in (self._weight, *self._parameters)]
        found = tuple(map(torch.zeros_like, inputs))
        if len(inputs[0]):
            with torch.enable_grad():
                value = self._part.of_rows(*inputs)
            found = torch.autograd.grad(value, inputs, local(gradient))
        local(gradient).copy_(found[0])
        for parameter, rows in zip(self._parameters, found[1:], strict=True):
            parameter.grad = _sharded_like(parameter, rows)


def _sharded_like(parameter: Any, rows: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        rows,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def rounded_rows(block: nn.Module, dtype: torch.dtype) -> Iterator[RoundedRows]:
    """Make FSDP gather the weights of a sharded block's linears in `dtype`, and yield them.

    Weights with another parametrization are gathered in float32: rounding first would change them.
    """
    for module in block.modules():
        if type(module) is nn.Linear:
            yield RoundedRows(module.weight, None, dtype)  # type: ignore[arg-type]
        elif isinstance(module, parametrize.ParametrizationList):
            part = module[0]
            if len(module) == 1 and hasattr(part, "of_rows"):
                yield RoundedRows(module.original, part, dtype)  # type: ignore[arg-type]
