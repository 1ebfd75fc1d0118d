"""Optimal grids of one weight for a normal distribution. J. Max, Quantizing for Minimum Distortion,
1960, table I."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.parts.codebooks.rotated import ColumnCodec, RotatedQuantizer
from methods.contract.info import Cost, MethodInfo
from methods.contract.method import Needs

POSITIVE = {
    2: (0.4528, 1.510),
    3: (0.2451, 0.7560, 1.344, 2.152),
    4: (0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733),
}
"""Positive points for a standard deviation of 1, by bits. The negative ones are their mirror."""


@dataclass(frozen=True)
class GaussianCodec(ColumnCodec):
    """Points of a grid for the normal distribution, in the order of their values."""

    name: ClassVar[str] = "gauss"

    def _grid(self, device: torch.device) -> Tensor:
        positive = torch.tensor(POSITIVE[self.width], device=device)
        return torch.cat([-positive.flip(0), positive])

    def nearest(self, x: Tensor, tables: Mapping[str, Tensor]) -> Tensor:
        grid = self._grid(x.device)
        return torch.bucketize(x, (grid[1:] + grid[:-1]) / 2).to(torch.uint8)

    def vectors(self, codes: Tensor, tables: Mapping[str, Tensor]) -> Tensor:
        return self._grid(codes.device)[codes.int()]


@dataclass(frozen=True)
class Gauss2(RotatedQuantizer):
    """2-bit Lloyd-Max grid of rotated weights, with GPTQ's feedback. The fields are those of
    gauss3."""

    name: ClassVar[str] = "gauss2"
    width: ClassVar[int] = 2
    needs: ClassVar[Needs] = Needs.CALIBRATION | Needs.TEACHER
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2402.04396", cost=Cost(passes=2, hessians=2, launches=9)
    )

    def codec(self, shape: tuple[int, int]) -> GaussianCodec:
        return GaussianCodec(self.width, shape)


class Gauss3(Gauss2):
    """3-bit Lloyd-Max grid of rotated weights, with GPTQ's feedback; not after pruning.

    damping: fraction of H's mean diagonal that is added to the diagonal. tune, tune_rate and
    last_rate: those of tcq3.
    """

    name = "gauss3"
    width = 3


class Gauss4(Gauss2):
    """4-bit Lloyd-Max grid of rotated weights, with GPTQ's feedback. The fields are those of
    gauss3."""

    name = "gauss4"
    width = 4
