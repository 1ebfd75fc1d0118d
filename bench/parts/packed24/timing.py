"""Clocks, and the check of a product before it is timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Work = Callable[[], Any]
"""Call that is timed."""

PRODUCT_TOLERANCE = 1e-2
"""Largest error as a fraction of the product's norm. It allows for bfloat16 inputs and outputs."""
MODEL_TOLERANCE = 0.2
"""Largest error of a step's logits as a fraction of their norm. Rounding accumulates over the
layers."""


@dataclass(frozen=True)
class CapturedWork:
    """A CUDA graph, which each call replays. It reads tensors of the work, and holds none of them
    itself."""

    graph: Any
    work: Work

    def __call__(self) -> None:
        self.graph.replay()


def capture_graph(work: Work) -> Work:
    """Capture the work once as a CUDA graph, which each call replays."""
    side, current = torch.cuda.Stream(), torch.cuda.current_stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            work()
    except RuntimeError:
        # torch leaves the stream of a failed capture as the current one.
        torch.cuda.set_stream(current)
        raise
    return CapturedWork(graph, work)


class CudaClock:
    """A clock for a CUDA device that uses events in its queue. Calls are queued without waiting."""

    def without_host(self, work: Work, count: int) -> Work:
        """Return `count` calls of the work as a CUDA graph: the device does not wait for the host
        between them."""

        def repeat() -> None:
            for _ in range(count):
                work()

        return capture_graph(repeat)

    def measure(self, work: Work, count: int) -> list[float]:
        pairs = []
        for _ in range(count):
            start = torch.cuda.Event(enable_timing=True)
            end = torch.cuda.Event(enable_timing=True)
            pairs.append((start, end))
        for start, end in pairs:
            start.record()
            work()
            end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in pairs]


class WrongProduct(Exception):
    """A wrong product of a kernel, which is not timed."""


def check_product(
    name: str, product: Tensor, expected: Tensor, tolerance: float = PRODUCT_TOLERANCE
) -> None:
    """Raise WrongProduct if a product differs from that of float32 by more than `tolerance` of the
    norm, or is NaN."""
    error = float((product.float() - expected).norm() / expected.norm().clamp(min=1e-30))
    if not error <= tolerance:
        raise WrongProduct(f"{name} is off by {error:.2g} of the product's norm")


class Clock(Protocol):
    """A clock that measures the seconds of work on a device."""

    def measure(self, work: Work, count: int) -> list[float]:
        """Call `work` `count` times. Return the seconds of each call."""
        ...


@dataclass(frozen=True)
class WallClock:
    """A clock for work that is done when it returns."""

    now: Callable[[], float] = time.perf_counter

    def measure(self, work: Work, count: int) -> list[float]:
        seconds = []
        for _ in range(count):
            start = self.now()
            work()
            seconds.append(self.now() - start)
        return seconds
