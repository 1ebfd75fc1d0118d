"""Invertible linear changes of a vector that some modules write and others read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Change(Protocol):
    """A change of the basis of a vector of one size, or of each head's part of it."""

    def vectors(self, x: Tensor) -> Tensor:
        """Return vectors [..., width] in the new basis."""
        ...

    def columns(self, x: Tensor) -> Tensor:
        """Return the weight [..., width] of a linear that reads the vector, so that its products
        stay the same."""
        ...

    def repeat(self, times: int) -> Change:
        """Return the change of a vector in which each head is repeated `times` times."""
        ...


@dataclass(frozen=True)
class Rotation:
    """x Q, with Q orthogonal: float64 [width, width], or [heads, head_dim, head_dim]."""

    matrix: Tensor

    def vectors(self, x: Tensor) -> Tensor:
        matrix = self.matrix.to(x.device)
        if matrix.dim() == 2:
            return x @ matrix
        parts = x.unflatten(-1, matrix.shape[:2])
        return torch.einsum("...hi,hij->...hj", parts, matrix).flatten(-2)

    columns = vectors

    def repeat(self, times: int) -> Rotation:
        return Rotation(self.matrix.repeat_interleave(times, 0))


@dataclass(frozen=True)
class Permutation:
    """x[order]: int64 [width], or [heads, head_dim] with an order within each head."""

    order: Tensor

    def vectors(self, x: Tensor) -> Tensor:
        if self.order.dim() == 1:
            return x[..., self.order]
        heads, width = self.order.shape
        start = torch.arange(heads, device=self.order.device)[:, None] * width
        return x[..., (self.order + start).flatten()]

    columns = vectors

    def repeat(self, times: int) -> Permutation:
        return Permutation(self.order.repeat_interleave(times, 0))


@dataclass(frozen=True)
class Scaling:
    """x / s: float64 [width], or [heads, head_dim]. Every s is positive."""

    scale: Tensor

    def vectors(self, x: Tensor) -> Tensor:
        return x / self.scale.flatten()

    def columns(self, x: Tensor) -> Tensor:
        return x * self.scale.flatten()

    def repeat(self, times: int) -> Scaling:
        return Scaling(self.scale.repeat_interleave(times, 0))
