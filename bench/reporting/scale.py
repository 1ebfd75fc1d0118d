"""Axes of the figures that are written as SVG: from values to pixels, linear or logarithmic, with ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LOG_SCALE_FROM = 4.0
"""From this ratio of the largest value to the smallest, an axis is logarithmic."""


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True)
class AxisScale:
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        low, high, v = self.low, self.high, value
        if self.log:
            low, high, v = math.log(low), math.log(high), math.log(max(v, self.low))
        return round(self.start + (v - low) / (high - low) * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        if not self.log:
            return _even(self.low, self.high)
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
            ticks = [d * 10.0**p for p in powers for d in digits if self.low <= d * 10.0**p <= self.high]
            if len(ticks) >= 3:
                break
        return ticks


def make_scale(values: Sequence[float], start: float, end: float) -> AxisScale:
    """A scale with a margin at both ends."""
    low, high = min(values), max(values)
    log = low > 0 and high / low >= LOG_SCALE_FROM
    if low == high:
        margin = abs(low) * 0.1 or 1.0
        return AxisScale(low - margin, high + margin, start, end, False)
    if log:
        margin = (high / low) ** 0.06
        return AxisScale(low / margin, high * margin, start, end, True)
    margin = (high - low) * 0.08
    return AxisScale(low - margin, high + margin, start, end, False)


def _even(low: float, high: float) -> list[float]:
    """Three to seven multiples of 1, 2 or 5 times a power of ten, at even distances."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
