"""Clocks, and the check of a product before it is timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from torch import Tensor

Work = Callable[[], Any]

PRODUCT_TOLERANCE = 1e-2
"""Of a product's norm: what inputs and outputs in bfloat16 may cost."""


class CudaClock:
    """Time between two events on the device's own queue; calls are queued without waiting."""

    def samples(self, work: Work, count: int) -> list[float]:
        pairs = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(count)]
        for start, end in pairs:
            start.record()
            work()
            end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in pairs]


class WrongProduct(Exception):
    """A kernel's answer is wrong: it is not timed."""


def check_product(name: str, found: Tensor, wanted: Tensor) -> None:
    """Is it the product that float32 gives? Held before anything is timed.

    Raises:
        WrongProduct: further off than TOLERANCE of the norm; NaN never passes.
    """
    error = float((found.float() - wanted).norm() / wanted.norm().clamp(min=1e-30))
    if not error <= PRODUCT_TOLERANCE:
        raise WrongProduct(f"{name} is off by {error:.2g} of the product's norm")


class Clock(Protocol):
    """What a device's time is read from."""

    def samples(self, work: Work, count: int) -> list[float]:
        """Seconds of each of `count` calls."""
        ...


@dataclass(frozen=True)
class WallClock:
    """A clock for work that has ended when it returns."""

    now: Callable[[], float] = time.perf_counter

    def samples(self, work: Work, count: int) -> list[float]:
        found = []
        for _ in range(count):
            started = self.now()
            work()
            found.append(self.now() - started)
        return found
