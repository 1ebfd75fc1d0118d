"""A measure with a metric, which tables show and a gate judges."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from bench.measures.contract import MeasureContext, Readings
from bench.results.record import Reading
from methods import MeasureInfo, Metric, Needs


@dataclass(frozen=True)
class Outliers:
    """The largest weight over the mean magnitude of its tensor, at worst."""

    name: ClassVar[str] = "outliers"
    needs: ClassVar[Needs] = Needs.NOTHING
    protocol: ClassVar[str] = "weights"
    info: ClassVar[MeasureInfo] = MeasureInfo(
        metrics=(Metric("largest_outlier", "1", "lower", order=90, on_board=True, margin=0.05),)
    )

    def read(self, model: Callable[[], nn.Module], context: MeasureContext) -> Readings:
        ratios = [
            float(tensor.abs().max() / tensor.abs().mean())
            for tensor in model().parameters()
            if tensor.ndim == 2
        ]
        return Readings((Reading("largest_outlier", max(ratios), "1", "lower"),))
