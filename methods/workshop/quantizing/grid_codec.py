"""Codec of a weight on a grid: codes, and a scale for each group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from methods.workshop.quantizing.grids import GRIDS, Grid


@dataclass(frozen=True)
class GridCodec:
    """Codes of a grid, with a scale for each group of weights along the input.

    Parts: `codes` uint8 [out, in]; `scales` [out, in / group]; `tensor_scale` float32 [1] where the
    grid has one.
    """

    name: ClassVar[str] = "grid"
    grid: str
    """Kind of the grid, a key of GRIDS."""
    width: int
    """Bits of a code."""
    group: int
    """Number of weights along the input that share a scale."""

    @classmethod
    def of(cls, grid: Grid, group: int) -> GridCodec:
        """Return the codec of a grid."""
        return cls(grid.kind, grid.bits, group)

    def __str__(self) -> str:
        return f"{self.grid} of {self.width} bits in groups of {self.group}"

    @property
    def bits(self) -> Mapping[str, int]:
        return {"codes": self.width}

    def store(self, values: Tensor, scales: Tensor, grid: Grid) -> dict[str, Tensor]:
        """Return the parts of a weight that is near points of a grid.

        values: float32 [out, in]; scales: those of its groups, float [out, in / group].
        """
        codes = grid.codes(values.unflatten(-1, (-1, self.group)), scales.unsqueeze(-1)).flatten(-2)
        parts = {"codes": codes, "scales": grid.pack_scale(scales)}
        if grid.tensor_bits:
            parts["tensor_scale"] = scales.new_tensor([grid.tensor_scale])
        return parts

    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        """Return the parts of the nearest points to a weight [out, in] of any float dtype."""
        groups = weight.float().contiguous().unflatten(-1, (-1, self.group))
        grid = self.made().of(groups)
        return self.store(groups.flatten(-2), grid.scale(groups).squeeze(-1), grid)

    def made(self, tensor_scale: float = 0.0) -> Grid:
        """Return the grid. tensor_scale: that of the whole weight; 0 if it has none."""
        grid = GRIDS[self.grid](bits=self.width)
        return replace(grid, tensor_scale=tensor_scale) if grid.tensor_bits else grid  # type: ignore[type-var]

    def scales(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the scale of each group, float32 [out, in / group]."""
        return self._grid_of(parts).unpack_scale(parts["scales"])

    def _grid_of(self, parts: Mapping[str, Tensor]) -> Grid:
        return self.made(float(parts["tensor_scale"]) if "tensor_scale" in parts else 0.0)

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        grid = self._grid_of(parts)
        groups = grid.points(parts["codes"]).unflatten(-1, (-1, self.group))
        weight: Tensor = groups.mul_(grid.unpack_scale(parts["scales"]).unsqueeze(-1)).flatten(-2)
        return weight
