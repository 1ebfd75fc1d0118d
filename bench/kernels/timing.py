"""Clocks, and the check of a product before it is timed. Imports no benchmark code."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Work = Callable[[], Any]
"""A call that is timed."""

PRODUCT_TOLERANCE = 1e-2
"""Largest allowed error, as a share of the product's norm: what bfloat16 inputs and outputs may cost."""


class CudaClock:
    """Times a CUDA device by events on its own queue; calls are queued without waiting."""

    def measure(self, work: Work, count: int) -> list[float]:
        pairs = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(count)]
        for start, end in pairs:
            start.record()
            work()
            end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in pairs]


class WrongProduct(Exception):
    """A kernel's product is wrong, so it is not timed."""


def check_product(name: str, product: Tensor, expected: Tensor, tolerance: float = PRODUCT_TOLERANCE) -> None:
    """Check a product against the one that float32 gives, before anything is timed.

    Raises:
        WrongProduct: the error is more than `tolerance` of the norm, or NaN.
    """
    error = float((product.float() - expected).norm() / expected.norm().clamp(min=1e-30))
    if not error <= tolerance:
        raise WrongProduct(f"{name} is off by {error:.2g} of the product's norm")


class Clock(Protocol):
    """Measures how long work takes on a device."""

    def measure(self, work: Work, count: int) -> list[float]:
        """Call `work` `count` times; seconds of each call."""
        ...


@dataclass(frozen=True)
class WallClock:
    """For work that has ended when it returns."""

    now: Callable[[], float] = time.perf_counter

    def measure(self, work: Work, count: int) -> list[float]:
        seconds = []
        for _ in range(count):
            start = self.now()
            work()
            seconds.append(self.now() - start)
        return seconds
