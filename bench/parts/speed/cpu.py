"""The native 2:4 kernel on a CPU against its dense form and against torch, on cold caches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from bench.parts.packed24 import cpu24, native
from bench.parts.packed24.integers24 import pack_rounded
from bench.parts.packed24.packing import pack, unpack
from bench.parts.packed24.timing import Clock, WallClock, check_product
from bench.parts.speed.comparison import (
    CACHE_MULTIPLE,
    Peaks,
    SpeedComparison,
    copy_count,
    rotate,
)
from bench.parts.speed.roofline import RooflineCost
from methods.contract.errors import Skipped

if TYPE_CHECKING:
    from bench.parts.speed.comparison import Contestants, StepFactory

KINDS = ("bf16", "int8", "int4")
DEFAULT_CACHE_BYTES = 32 * 2**20
"""Size of the last cache on systems that do not report it."""
READS = 9


class Cpu:
    """A CPU. threads: number of threads of every contestant."""

    clock: Clock = WallClock()
    kinds = KINDS

    def __init__(self, threads: int) -> None:
        self.threads = threads

    @cached_property
    def cache_bytes(self) -> int:
        return last_cache_bytes()

    @cached_property
    def kernel(self) -> native.Kernel:
        """Return the native kernel, or raise Skipped if it cannot be compiled here."""
        try:
            return native.load()
        except native.NoKernel as why:
            raise Skipped(f"no native kernel: {why}") from None

    def peaks(self) -> Peaks:
        """Measure the bandwidth of uncached reads, which alone bounds a few tokens."""
        part = -(-self.cache_bytes // 256) * 256
        memory = cpu24.aligned_copy(torch.ones(CACHE_MULTIPLE * part, dtype=torch.uint8))
        starts = [memory.data_ptr() + i * part for i in range(CACHE_MULTIPLE)]
        read = rotate(lambda at: self.kernel.read(at, part, self.threads), starts)
        return Peaks(part / min(self.clock.measure(read, READS)))

    @property
    def name(self) -> str:
        return f"CPU, {native.select_path(self.kernel)}, {self.threads} thread" + "s" * (
            self.threads > 1
        )

    def engine(self, kind: str) -> str:
        """Return the engine of Linear24 for this kind of weight, or raise Skipped if no kernel here
        takes it."""
        if kind not in KINDS:
            if kind == "float32":
                way = "take --dtype bfloat16, --quant int8 or int4-rtn"
            else:
                way = f"it has {', '.join(KINDS)}"
            raise Skipped(f"the native kernel has no {kind}: {way}")
        _ = self.kernel
        return "native"

    def steps(
        self,
        dense: dict[str, nn.Module],
        sparse: dict[str, nn.Module],
        make: StepFactory,
        small: bool,
    ) -> Contestants:
        """Return a step of each model. small: the step takes few tokens."""
        if not small:
            raise Skipped("no CUDA device")
        return {n: make(m) for n, m in dense.items()}, {n: make(m) for n, m in sparse.items()}, {}

    def compare(self, weight: Tensor, tokens: int, kind: str) -> SpeedComparison:
        """Compare 2:4 with dense for y = x W^T. weight: bfloat16 [out, in], 2:4. Raise Skipped
        without a kernel."""
        self.engine(kind)
        x = torch.randn(
            tokens, weight.shape[1], generator=torch.Generator().manual_seed(1)
        ).bfloat16()
        path = native.select_path(self.kernel)
        packed = pack(weight.bfloat16()) if kind == "bf16" else pack_rounded(weight, kind)
        if not cpu24.supports(packed):
            raise Skipped(
                f"the native kernel has no int4 for {weight.shape[1]} inputs: a scale is for "
                f"blocks of {cpu24.BLOCK}"
            )
        unpacked = unpack(packed)
        sparse = cpu24.to_kernel_layout(packed)
        dense = cpu24.dense_twin(packed)
        half = unpacked.bfloat16()
        expected = x.float() @ unpacked.float().T
        products = {
            "2:4": cpu24.product(x, sparse),
            "dense": cpu24.product(x, dense),
            "torch": linear(x, half),
        }
        for name, y in products.items():
            check_product(name, y, expected)
        return SpeedComparison(
            kind,
            dense={"dense": self._kernel_work(x, dense), "torch bf16": self._torch_work(x, half)},
            sparse={"2:4": self._kernel_work(x, sparse)},
            others={"torch fp32": self._torch_work(x.float(), unpacked.float())},
            costs=(
                RooflineCost(0, _bytes_moved(x, dense)),
                RooflineCost(0, _bytes_moved(x, sparse)),
            ),
            notes={"path": path, "threads": self.threads},
        )

    def _kernel_work(self, x: Tensor, weight: cpu24.KernelWeight) -> Callable[[], Any]:
        count = copy_count(weight.memory.nbytes, self.cache_bytes)
        copies = (
            dataclasses.replace(weight, memory=cpu24.aligned_copy(weight.memory))
            for _ in range(count - 1)
        )
        return rotate(
            lambda w: cpu24.product(x, w, threads=self.threads, dtype=torch.bfloat16),
            [weight, *copies],
        )

    def _torch_work(self, x: Tensor, weight: Tensor) -> Callable[[], Any]:
        count = copy_count(weight.nbytes, self.cache_bytes)
        return rotate(lambda w: linear(x, w), [weight, *(weight.clone() for _ in range(count - 1))])


def _bytes_moved(x: Tensor, weight: cpu24.KernelWeight) -> int:
    """Return the bytes of x, of the weight with its scales, and of the bfloat16 outputs."""
    scales = 0 if weight.scales is None else weight.scales.nbytes
    return x.nbytes + weight.memory.nbytes + scales + x.element_size() * len(x) * len(weight.memory)


def last_cache_bytes() -> int:
    """Return the size of the processor's largest cache on Linux, DEFAULT_CACHE_BYTES elsewhere."""
    sizes = [0]
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        sizes.append(int(text.rstrip("KM")) * (2**20 if text.endswith("M") else 2**10))
    return max(sizes) or DEFAULT_CACHE_BYTES
