"""Size: parameters, non-zeros, bytes on disk, and bytes if packed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.measures.contract import MeasureContext, Readings
from bench.results.identity import Protocol
from bench.results.record import Item, Reading
from methods.contract import Needs

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Size:
    """Parameters, non-zeros, sparsity, bytes on disk and in theory."""

    name: ClassVar[str] = "size"
    needs: ClassVar[Needs] = Needs.NOTHING

    @property
    def protocol(self) -> Protocol:
        return Protocol(name="weights")

    def read(self, model: Callable[[], nn.Module], context: MeasureContext) -> Readings:
        """Count the whole model for all readings but `sparsity` and `bits_per_weight`, which cover the targets.

        bytes_packed is computed, not measured. Each target stores n of every m values and a mask of one bit per weight. The
        other tensors keep their size. A quantizer states the bits of its values and scales. A model that breaks its pattern
        cannot be packed and counts as dense. Items: sparsity of each layer.
        """
        counts = context.counts
        target_count = sum(layer.weights for layer in counts.layers.values())
        target_zeros = sum(layer.zeros for layer in counts.layers.values())
        item_bits = 8 * counts.bytes / max(1, counts.parameters)
        bits, scales = (
            (context.storage.bits, context.storage.scale_bits * context.storage.scales)
            if context.storage
            else (item_bits, 0)
        )
        n, m = counts.pattern.n, counts.pattern.m
        if m and n < m and not counts.violations:
            bits = bits * n / m + 1
        bits += scales / max(1, target_count)
        packed = counts.bytes - target_count * (item_bits - bits) / 8
        values = (
            Reading("parameters", counts.parameters, "1", ""),
            Reading("nonzeros", counts.parameters - counts.zeros, "1", "lower"),
            Reading("sparsity", target_zeros / target_count if target_count else 0.0, "1", "higher"),
            Reading("bytes", counts.bytes, "B", "lower"),
            Reading("bytes_packed", math.ceil(packed), "B", "lower"),
            Reading("bits_per_weight", bits, "1", "lower"),
        )
        items = tuple(Item(name, name, x.zeros / x.weights, float(x.weights)) for name, x in counts.layers.items())
        return Readings(values, items)
