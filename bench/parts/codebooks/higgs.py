"""HIGGS: optimal grids of pairs of rotated weights, without data. Malinovskii et al. 2024, arXiv
2411.17525."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.parts.codebooks.rotated import Bits, ColumnCodec, require_dense
from methods.contract.info import MethodInfo
from methods.contract.method import Job, Needs, Outcome
from methods.workshop.pruning.walk import Walk
from methods.workshop.transforms.incoherence import turn_weight

SAMPLES = 128
"""Middles of equal parts of the normal distribution along each axis, on which the grid is made."""
ROUNDS = 100
"""Rounds of Lloyd's algorithm."""


@cache
def grid(bits: int) -> Tensor:
    """Return the points of a grid of pairs for the normal distribution, float16 [4^bits, 2].

    Lloyd's algorithm starts from a spiral of points with equal probability.
    """
    line = torch.special.ndtri((torch.arange(SAMPLES, dtype=torch.float64) + 0.5) / SAMPLES)
    line /= line.square().mean().sqrt()
    samples = torch.cartesian_prod(line, line)
    count = 4**bits
    share = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    angle = torch.arange(count, dtype=torch.float64) * (torch.pi * (3 - 5**0.5))
    # wider than the normal distribution, as optimal grids of two dimensions are
    radius = (-4 * torch.log1p(-share)).sqrt()
    points = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    for _ in range(ROUNDS):
        owners = torch.cdist(samples, points).argmin(1)
        sums = torch.zeros_like(points).index_add_(0, owners, samples)
        sizes = torch.bincount(owners, minlength=count).unsqueeze(1)
        points = torch.where(sizes > 0, sums / sizes.clamp(min=1), points)
    return points.half()


@dataclass(frozen=True)
class HiggsCodec(ColumnCodec):
    """Codes of pairs of neighboring rows: the number of a point, its upper half in the first row.

    Part `grid`: the points, float16 [4^bits, 2].
    """

    name: ClassVar[str] = "higgs"
    dimension: ClassVar[int] = 2

    def tables(self, device: torch.device) -> dict[str, Tensor]:
        return {"grid": grid(self.width).to(device)}

    def nearest(self, x: Tensor, tables: Mapping[str, Tensor]) -> Tensor:
        distance = torch.cdist(
            x, tables["grid"].float(), compute_mode="donot_use_mm_for_euclid_dist"
        )
        number = distance.argmin(1)
        return torch.stack([number >> self.width, number & ((1 << self.width) - 1)], 1).byte()

    def vectors(self, codes: Tensor, tables: Mapping[str, Tensor]) -> Tensor:
        upper, lower = codes.int().unbind(1)
        return tables["grid"].float()[(upper << self.width) + lower]


@dataclass(frozen=True)
class Higgs:
    """Optimal grid of pairs of rotated weights, rounded to nearest without data; not after pruning.

    bits: 2, 3 or 4 for each weight.
    """

    name: ClassVar[str] = "higgs"
    needs: ClassVar[Needs] = Needs.NOTHING
    info: ClassVar[MethodInfo] = MethodInfo(paper="2411.17525")
    bits: Bits = 3

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        require_dense(self.name, job)
        walk = Walk(model, job)
        for visit in walk:
            out, width = visit.weight.shape
            codec = HiggsCodec(self.bits, (out, width))
            unrelated = torch.eye(width, device=visit.weight.device)
            visit.store(codec, codec.encode(turn_weight(visit.weight), unrelated))
        return walk.outcome()
