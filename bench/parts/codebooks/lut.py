"""Tables of values for some rows: k-means weighed by the Hessian's diagonal. SqueezeLLM (Kim et al.
2023, arXiv 2306.07629) weighs by the Fisher information, with a table for each row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.parts.codebooks.searched import factor_and_diagonal
from bench.quantizers.gptq import OrderedFactor
from methods.contract.info import Cost, MethodInfo
from methods.contract.method import Job, Needs, Outcome
from methods.contract.ranges import Count, Fraction
from methods.workshop.pruning.hessian import HessianWalk, compensate_

ROUNDS = 40
"""Rounds of Lloyd's algorithm."""
BLOCK = 128
"""Number of columns after which all later ones are updated."""


@dataclass(frozen=True)
class TableCodec:
    """Places in tables of values.

    Parts: `codes` uint8 [out, in]; `tables` float16 [tables, 2^width], each of `rows` rows.
    """

    name: ClassVar[str] = "lut"
    width: int
    """Bits of a code."""
    rows: int

    def __str__(self) -> str:
        return f"tables of {self.width} bits for {self.rows} rows"

    @property
    def bits(self) -> Mapping[str, int]:
        return {"codes": self.width}

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        tables = by_row(parts["tables"], self.rows, len(parts["codes"]))
        return tables.gather(1, parts["codes"].long())


def by_row(tables: Tensor, rows: int, out: int) -> Tensor:
    """Return the table of each row, float32 [out, values]."""
    return tables.float().repeat_interleave(rows, 0)[:out]


def weighted_means(values: Tensor, importance: Tensor, count: int) -> Tensor:
    """Return the centers of k-means in one dimension, float64 [groups, count], in ascending order.

    Lloyd's algorithm on sorted values, from centers that share the importance equally.

    Args:
        values: float [groups, n].
        importance: of each value, [groups, n]; 0 for values that do not count.
    """
    ordered, order = values.double().sort(1)
    mass = importance.double().gather(1, order).cumsum(1)
    moment = (importance.double().gather(1, order) * ordered).cumsum(1)
    mass, moment = (torch.nn.functional.pad(x, (1, 0)) for x in (mass, moment))
    shares = (torch.arange(count, dtype=torch.float64, device=mass.device) + 0.5) / count
    places = torch.searchsorted(mass, mass[:, -1:] * shares)
    centers = ordered.gather(1, (places - 1).clamp(0, ordered.shape[1] - 1))
    for _ in range(ROUNDS):
        bounds = torch.searchsorted(ordered, (centers[:, 1:] + centers[:, :-1]) / 2)
        ends = torch.nn.functional.pad(bounds, (1, 0))
        ends = torch.nn.functional.pad(ends, (0, 1), value=ordered.shape[1])
        own_mass = mass.gather(1, ends).diff(dim=1)
        own_moment = moment.gather(1, ends).diff(dim=1)
        centers = torch.where(own_mass > 0, own_moment / own_mass.clamp(min=1e-300), centers)
    return centers


def choose(weight: Tensor, keep: Tensor, tables: Tensor, prepared: OrderedFactor) -> Tensor:
    """Return the codes of a weight [out, in], uint8, column by column with GPTQ's feedback.

    keep: bool [out, in]; a weight that is not kept has code 0. tables: of each row, float32 [out,
    values].
    """
    order = prepared.order
    assert order is not None, "the factor has no order of columns"
    codes, mask = torch.zeros_like(keep.T, dtype=torch.uint8), keep.T[order]

    def column_quantizer(a: int, b: int, w: Tensor) -> Callable[[int, Tensor], Tensor]:
        def quantize_column(i: int, column: Tensor) -> Tensor:
            nearest = (tables - column.unsqueeze(1)).abs().argmin(1).where(mask[a + i], 0)
            codes[a + i] = nearest.to(torch.uint8)
            return tables.gather(1, nearest.unsqueeze(1)).squeeze(1)

        return quantize_column

    compensate_(weight[:, order], prepared.factor, column_quantizer, BLOCK, BLOCK)
    return codes[order.argsort()].T.contiguous()


@dataclass(frozen=True)
class Lut3:
    """3-bit codes of a table of values for some rows, with GPTQ's feedback under a fixed mask.

    The values are weighted means of the kept weights. After pruning one of them is zero. rows:
    number of rows that share a table. damping: fraction of H's mean diagonal that is added to the
    diagonal.
    """

    name: ClassVar[str] = "lut3"
    width: ClassVar[int] = 3
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2306.07629", cost=Cost(passes=2, hessians=1, launches=9)
    )
    rows: Count = 8
    damping: Fraction = 0.01

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        walk = HessianWalk(model, job, self.damping, factor_and_diagonal)
        for visit, (prepared, diagonal) in walk:
            weight = visit.weight.float()
            keep = torch.ones_like(weight, dtype=torch.bool)
            if not job.pattern.dense:
                keep = weight != 0
            tables = self.tables(weight, keep, diagonal, has_zero=not job.pattern.dense)
            own = by_row(tables, self.rows, len(weight))
            codes = choose(weight, keep, own, prepared)
            visit.store(TableCodec(self.width, self.rows), {"codes": codes, "tables": tables})
        return walk.outcome()

    def tables(self, weight: Tensor, keep: Tensor, diagonal: Tensor, has_zero: bool) -> Tensor:
        """Return the tables of a weight [out, in], float16 [tables, 2^width]. has_zero: the first
        value is 0."""
        missing = (0, 0, 0, -len(weight) % self.rows)
        values = torch.nn.functional.pad(weight, missing).view(-1, self.rows * weight.shape[1])
        importance = torch.nn.functional.pad(keep * diagonal, missing).view_as(values)
        means = weighted_means(values, importance, 2**self.width - has_zero).half()
        return torch.nn.functional.pad(means, (int(has_zero), 0))


class Lut4(Lut3):
    """4-bit codes of a table of values for some rows. The fields are those of lut3."""

    name = "lut4"
    width = 4
