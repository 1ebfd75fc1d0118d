"""Codes of rotated weights in the E8 lattice, which QuIP# uses too (arXiv 2402.04396).

The code is that of NestQuant (arXiv 2502.09720): J. Conway and N. Sloane, A Fast Encoding Method
for Lattice Codes and Quantizers, 1983.

A code of k bits for each weight is a coset of 2^k E8 in E8. Its point is the one of this coset that
is nearest to zero, so the points fill a cell of 2^k E8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.parts.codebooks.rotated import Bits, ColumnCodec, RotatedQuantizer
from methods.contract.info import Cost, MethodInfo
from methods.contract.method import Needs

SIZE = 8
"""Dimension of the lattice."""
STEP = {2: 1.05, 3: 0.575, 4: 0.3125}
"""Size of the lattice for a standard deviation of 1, by bits, for the least error."""
LEVELS = (*(1 - i / 48 for i in range(1, 25)), 0.0)
"""Lengths of shorter vectors that are tried, over that of a vector outside the cell."""
BASIS = torch.tensor(
    [
        [2, 0, 0, 0, 0, 0, 0, 0],
        [-1, 1, 0, 0, 0, 0, 0, 0],
        [0, -1, 1, 0, 0, 0, 0, 0],
        [0, 0, -1, 1, 0, 0, 0, 0],
        [0, 0, 0, -1, 1, 0, 0, 0],
        [0, 0, 0, 0, -1, 1, 0, 0],
        [0, 0, 0, 0, 0, -1, 1, 0],
        [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5],
    ]
)
"""Rows that generate E8."""


def nearest_d8(x: Tensor) -> Tensor:
    """Return the nearest whole numbers with an even sum. x: float [n, 8]."""
    near = x.round()
    error = x - near
    worst = error.abs().argmax(1, keepdim=True)
    other = torch.where(error.gather(1, worst) < 0, -1.0, 1.0)
    is_odd = near.sum(1, keepdim=True).remainder(2) == 1
    return near.scatter_add_(1, worst, (other * is_odd).to(x))


def nearest_e8(x: Tensor) -> Tensor:
    """Return the nearest points of E8, float [n, 8]: the better of two roundings, to D8 and to D8
    plus one half."""
    whole = nearest_d8(x)
    half = nearest_d8(x - 0.5) + 0.5
    is_half = (x - half).square().sum(1) < (x - whole).square().sum(1)
    return torch.where(is_half.unsqueeze(1), half, whole)


@dataclass(frozen=True)
class LatticeCodec(ColumnCodec):
    """Coordinates of a point of E8, modulo 2^bits."""

    name: ClassVar[str] = "e8"
    dimension: ClassVar[int] = SIZE

    @property
    def _modulus(self) -> int:
        return 1 << self.width

    def _codes(self, points: Tensor) -> Tensor:
        inverse = torch.linalg.inv(BASIS.double()).float().to(points.device)
        codes: Tensor = (points @ inverse).round().remainder(self._modulus)
        return codes

    def _points(self, codes: Tensor) -> Tensor:
        points = codes @ BASIS.to(codes.device)
        return points - self._modulus * nearest_e8(points / self._modulus)

    def nearest(self, x: Tensor, tables: Mapping[str, Tensor]) -> Tensor:
        x = x / STEP[self.width]
        found = nearest_e8(x)
        codes = self._codes(found)
        # Points outside the cell decode to others.
        outside = (self._points(codes) != found).any(1).nonzero().squeeze(1)
        if len(outside):
            codes[outside] = self._nearest_inside(x[outside])
        return codes.to(torch.uint8)

    def _nearest_inside(self, x: Tensor) -> Tensor:
        """Return the codes of the best points that the nearest points to shorter vectors give."""
        levels = torch.tensor(LEVELS, device=x.device).view(-1, 1, 1)
        codes = self._codes(nearest_e8((x * levels).view(-1, SIZE)))
        errors = (self._points(codes).view(-1, *x.shape) - x).square().sum(2)
        best = errors.argmin(0)
        return codes.view(-1, *x.shape)[best, torch.arange(len(x), device=x.device)]

    def vectors(self, codes: Tensor, tables: Mapping[str, Tensor]) -> Tensor:
        return self._points(codes.float()) * STEP[self.width]


@dataclass(frozen=True)
class E8(RotatedQuantizer):
    """E8 lattice codes of rotated weights, with GPTQ's feedback; not after pruning.

    bits: 2, 3 or 4 for each weight. damping: fraction of H's mean diagonal that is added to the
    diagonal. tune, tune_rate and last_rate: those of tcq3.
    """

    name: ClassVar[str] = "e8"
    needs: ClassVar[Needs] = Needs.CALIBRATION | Needs.TEACHER
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2402.04396", cost=Cost(passes=2, hessians=2, launches=60)
    )
    bits: Bits = 3

    def codec(self, shape: tuple[int, int]) -> LatticeCodec:
        return LatticeCodec(self.bits, shape)
