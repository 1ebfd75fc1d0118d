"""HIGGS: optimal grids of pairs of rotated weights, without data. Malinovskii et al. 2024, arXiv
2411.17525."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.parts.codebooks.rotated import COLUMNS, RotatedCodec, require_dense
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
class HiggsCodec(RotatedCodec):
    """Codes of pairs of neighboring rows: the number of a point, its upper half in the first row.

    Part `grid`: the points, float16 [4^bits, 2].
    """

    name: ClassVar[str] = "higgs"

    def points(self, parts: Mapping[str, Tensor]) -> Tensor:
        codes = parts["codes"].int()
        pairs = parts["grid"].float()[(codes[0::2] << self.width) + codes[1::2]]
        return pairs.transpose(1, 2).flatten(0, 1)

    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        """Return the parts of a turned weight, float32 [out, in], rounded to nearest."""
        points = grid(self.width).to(weight.device)
        weight = torch.nn.functional.pad(weight, (0, 0, 0, -len(weight) % 2))
        scales = torch.stack([self.scale(columns) for columns in weight.T.split(COLUMNS)])
        codes = torch.empty_like(weight, dtype=torch.uint8)
        for start, scale in zip(range(0, weight.shape[1], COLUMNS), scales, strict=True):
            some = slice(start, start + COLUMNS)
            pairs = (weight[:, some] / scale.float()).unflatten(0, (-1, 2)).transpose(1, 2)
            number = self._nearest(pairs.reshape(-1, 2), points).view(pairs.shape[:2])
            codes[0::2, some] = number >> self.width
            codes[1::2, some] = number & ((1 << self.width) - 1)
        return {"codes": codes, "scales": scales, "grid": points}

    def _nearest(self, x: Tensor, points: Tensor) -> Tensor:
        """Return the numbers of the points nearest to x, float32 [n, 2]: int64 [n]."""
        mode = "donot_use_mm_for_euclid_dist"
        return torch.cdist(x, points.float(), compute_mode=mode).argmin(1)


@dataclass(frozen=True)
class Higgs:
    """Optimal grid of pairs of rotated weights, rounded to nearest without data; not after pruning.

    bits: 2, 3 or 4 for each weight.
    """

    name: ClassVar[str] = "higgs"
    needs: ClassVar[Needs] = Needs.NOTHING
    info: ClassVar[MethodInfo] = MethodInfo(paper="2411.17525")
    bits: Annotated[int, Field(ge=2, le=4)] = 3

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        require_dense(self.name, job)
        walk = Walk(model, job)
        for visit in walk:
            out, width = visit.weight.shape
            codec = HiggsCodec(self.bits, (out, width))
            visit.store(codec, codec.encode(turn_weight(visit.weight)))
        return walk.outcome()
