"""Size: what is there, what is zero, and what it would take packed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.measures.contract import Item, Reading, Readings, Rig
from methods.contract import Needs

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Size:
    name: ClassVar[str] = "size"
    needs: ClassVar[Needs] = Needs.NOTHING

    @property
    def protocol(self) -> str:
        return "weights"

    def read(self, model: Callable[[], nn.Module], rig: Rig) -> Readings:
        """Counts over the whole model; `sparsity` over its targets alone, per layer in the items.

        bytes_packed is theory: each target as its n of every m values and one bit per weight of mask, the rest as it is.
        """
        verdict = rig.verdict
        target_count = sum(layer.weights for layer in verdict.layers.values())
        target_zeros = sum(layer.zeros for layer in verdict.layers.values())
        item_bytes = verdict.bytes / max(1, verdict.parameters)
        n, m = verdict.pattern.n, verdict.pattern.m
        packed = float(verdict.bytes)
        if m and n < m:
            packed -= target_count * (item_bytes * (1 - n / m) - 1 / 8)
        values = (
            Reading("parameters", verdict.parameters, "1", ""),
            Reading("nonzeros", verdict.parameters - verdict.zeros, "1", "lower"),
            Reading("sparsity", target_zeros / target_count if target_count else 0.0, "1", "higher"),
            Reading("bytes", verdict.bytes, "B", "lower"),
            Reading("bytes_packed", math.ceil(packed), "B", "lower"),
        )
        items = tuple(Item(name, name, x.zeros / x.weights, float(x.weights)) for name, x in verdict.layers.items())
        return Readings(values, items)
