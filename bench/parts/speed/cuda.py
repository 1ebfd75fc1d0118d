"""cuSPARSELt and torchao's CUTLASS kernel on a CUDA device against the libraries' dense products.

UNVERIFIED: never run on a device yet. Tests check the calls against the operators' schemas in a CPU
build of torch, which has none of `mm_search` and the CUTLASS kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from bench.parts.packed24.cusparselt import SIDE_MULTIPLES, TOKEN_MULTIPLE, CompressedWeight
from bench.parts.packed24.timing import (
    MODEL_TOLERANCE,
    CudaClock,
    Work,
    capture_graph,
    check_product,
)
from bench.parts.speed.comparison import (
    Contestants,
    Peaks,
    SpeedComparison,
    StepFactory,
    copy_count,
)
from bench.parts.speed.roofline import ACTIVATION_BYTES, product_costs
from methods.contract.errors import Skipped, first_line

KINDS = ("bf16", "fp16", "int8", "fp8")
DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.int8,
    "fp8": torch.float8_e4m3fn,
}
OUTPUT_BYTES = {"int8": 4}
"""Bytes of an output of the linears, by kind. Others have ACTIVATION_BYTES. The int8 products
return int32."""
PEAK_SIZE = 8192
"""Rows, columns and depth of the product that measures the arithmetic peak."""
COPY_BYTES = 2**30
"""Size of the copy that measures the bandwidth."""
INT4_GROUP = 128
MAX_INT8 = 127.0
MAX_FP8 = 448.0
FP8_CAPABILITY = (9, 0)
"""Least compute capability of 2:4 products in fp8."""


@dataclass(frozen=True)
class UncapturedWork:
    """Work that is timed eagerly, because it cannot be a CUDA graph. reason: the fault of its
    capture."""

    work: Work
    reason: str

    def __call__(self) -> Any:
        return self.work()


def uncaptured_notes(works: Mapping[str, Work]) -> dict[str, Any]:
    """Return the note of a record that names the works without a graph, or {} if all have one."""
    reasons = {n: work.reason for n, work in works.items() if isinstance(work, UncapturedWork)}
    return {"not_captured": reasons} if reasons else {}


class Cuda:
    """A CUDA device. peak_size, copy_bytes: size of the work that measures its peaks."""

    kinds = KINDS

    def __init__(
        self, device: torch.device, *, peak_size: int = PEAK_SIZE, copy_bytes: int = COPY_BYTES
    ) -> None:
        self.device, self.peak_size, self.copy_bytes = device, peak_size, copy_bytes
        self.clock = CudaClock()

    @cached_property
    def cache_bytes(self) -> int:
        return int(torch.cuda.get_device_properties(self.device).L2_cache_size)

    @property
    def memory_bytes(self) -> int:
        return int(torch.cuda.get_device_properties(self.device).total_memory)

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.device)

    def engine(self, kind: str) -> str:
        """Return the engine of Linear24, or raise Skipped if no whole model of this kind of weight
        can run 2:4 here."""
        if not torch.backends.cusparselt.is_available():
            raise Skipped("this torch has no cuSPARSELt")
        if kind not in ("bf16", "fp16"):
            raise Skipped(
                f"no 2:4 kernel for a whole model of {kind}: only bf16 and fp16 have one; bench "
                f"speed times {kind} layer by layer"
            )
        return "cusparselt"

    def steps(
        self,
        dense: dict[str, nn.Module],
        sparse: dict[str, nn.Module],
        make: StepFactory,
        small: bool,
    ) -> Contestants:
        """Return a step of each model, eager and compiled. Small steps are CUDA graphs. Raise
        WrongProduct for wrong logits."""
        # It compiles a function for eight shapes at most, and others would run eagerly.
        torch.compiler.reset()
        slow, fast = _steps(dense, make), _steps(sparse, make)
        if not small:
            return slow, fast, {}
        return _captured(slow), _captured(fast), _named_eager(slow | fast)

    def peaks(self) -> Peaks:
        """Measure a large dense product of each kind, and a copy, whose bytes are read and
        written."""
        source = torch.ones(self.copy_bytes, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        best = min(self.clock.measure(lambda: target.copy_(source), 12)[2:])
        flops = {}
        for kind in KINDS:
            x, w = _randn(2, self.peak_size, self.peak_size, device=self.device)
            try:
                work = partial(_PRODUCTS[kind], *_convert(x, w, kind))
                flops[kind] = 2.0 * self.peak_size**3 / min(self.clock.measure(work, 12)[2:])
            except RuntimeError:
                # The device lacks the kind. A comparison of the kind reports it.
                continue
        return Peaks(2.0 * self.copy_bytes / best, flops)

    def compare(self, weight: Tensor, tokens: int, kind: str) -> SpeedComparison:
        """Compare 2:4 with dense for y = x W^T. weight: [out, in], 2:4. Raise Skipped without a
        kernel, or WrongProduct."""
        if not torch.backends.cusparselt.is_available():
            raise Skipped("this torch has no cuSPARSELt")
        capability = torch.cuda.get_device_capability(self.device)
        if kind == "fp8" and capability < FP8_CAPABILITY:
            raise Skipped(
                f"2:4 in fp8 needs compute capability {'.'.join(map(str, FP8_CAPABILITY))}, and "
                f"this card has {'.'.join(map(str, capability))}"
            )
        multiple = SIDE_MULTIPLES[DTYPES[kind]]
        if weight.shape[0] % multiple or weight.shape[1] % multiple:
            raise Skipped(
                f"cuSPARSELt has no {kind} product of {list(weight.shape)}: only of multiples of "
                f"{multiple}"
            )
        padded = tokens + -tokens % TOKEN_MULTIPLE
        x, w, *scales = _convert(
            _randn(padded, weight.shape[1], device=self.device), weight.to(self.device), kind
        )
        expected = x.float() @ w.float().T
        if kind == "fp8":
            expected = expected * scales[0][:, None] * scales[1]
        torch.compiler.reset()  # as in `steps`
        count = copy_count(w.nbytes * 9 // 16, self.cache_bytes)
        notes: dict[str, Any] = {"copies": count}
        # torch._int_mm takes more than 16 rows. Padded here, so that no copy of x is timed on the
        # dense side alone.
        if kind == "int8" and len(x) < 32:
            rows = torch.nn.functional.pad(x, (0, 0, 0, 32 - len(x)))
        else:
            rows = x
        dense = {
            "dense eager": [partial(_PRODUCTS[kind], rows, c, *scales) for c in _copies(w, count)]
        }
        fast = torch.compile(_PRODUCTS[kind], mode="max-autotune-no-cudagraphs", dynamic=False)
        dense["dense compiled"] = [partial(fast, rows, c, *scales) for c in _copies(w, count)]
        sparse = {"2:4 cusparselt": self._cusparselt(kind, x, w, scales, count, expected, notes)}
        if kind == "fp8":
            notes["cutlass"] = self._cutlass(x, w, scales, count, sparse)
        others = self._others(kind, x, w, count, notes)
        for name, works in (dense | sparse).items():
            check_product(name, works[0]()[: len(x)], expected)
        dense_passes, sparse_passes, other_passes = (
            _passes(side) for side in (dense, sparse, others)
        )
        # Without a graph the host's work is timed, too. Much of it is cuSPARSELt's, which plans
        # each product.
        eager = _named_eager(dense_passes | sparse_passes)
        # cuSPARSELt's metadata is 2 bits per kept value, which is one bit per weight.
        out, width = weight.shape
        costs = product_costs(out, width, tokens, kind, OUTPUT_BYTES.get(kind, ACTIVATION_BYTES))
        dense_graphs, sparse_graphs = _captured(dense_passes), _captured(sparse_passes)
        other_graphs = _captured(other_passes)
        notes |= uncaptured_notes(dense_graphs | sparse_graphs | other_graphs)
        return SpeedComparison(
            kind,
            dense_graphs,
            sparse_graphs,
            costs,
            others=other_graphs | eager,
            calls=count,
            notes=notes,
        )

    def _cusparselt(
        self,
        kind: str,
        x: Tensor,
        w: Tensor,
        scales: list[Tensor],
        count: int,
        expected: Tensor,
        notes: dict[str, Any],
    ) -> list[Work]:
        out = {"int8": torch.int32, "fp8": torch.bfloat16}.get(kind)
        weights = [CompressedWeight(c, self.clock, out) for c in _copies(w, count)]
        unscaled = expected / (scales[0][:, None] * scales[1][None]) if kind == "fp8" else expected
        choice = weights[0].choose(x, None, unscaled)
        notes["cusparselt"] = {
            "plan": choice.plan._asdict(),
            "tried": choice.plan_count,
            "wrong": list(choice.errors),
            "refused": choice.refusal_count,
        }

        scale = torch.compile(_scale, dynamic=False)

        def product(weight: CompressedWeight) -> Tensor:
            y = weight.product(x, None, choice.plan)
            return scale(y, *scales) if kind == "fp8" else y

        return [partial(product, weight) for weight in weights]

    def _cutlass(
        self, x: Tensor, w: Tensor, scales: list[Tensor], count: int, sparse: dict[str, list[Work]]
    ) -> str:
        """Add torchao's kernel for Hopper to `sparse`, and return "there" or the reason why not."""
        if torch.cuda.get_device_capability(self.device) != (9, 0):
            return "not a Hopper device"
        try:
            from torchao import ops  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            return "no torchao: pip install 'cast-bench[torchao]'"
        try:
            packed = [ops.to_sparse_semi_structured_cutlass_sm9x_f8(c) for c in _copies(w, count)]
            works: list[Work] = [
                partial(
                    ops.rowwise_scaled_linear_sparse_cutlass_f8f8,
                    x,
                    scales[0],
                    v,
                    m,
                    scales[1],
                    None,
                    torch.bfloat16,
                )
                for v, m in packed
            ]
            works[0]()
        except (AttributeError, RuntimeError) as why:  # its C++ part may not fit this torch
            return f"none here: {first_line(why)}"
        sparse["2:4 cutlass"] = works
        return "there"

    def _others(
        self, kind: str, x: Tensor, w: Tensor, count: int, notes: dict[str, Any]
    ) -> dict[str, list[Work]]:
        """Return dense products with fewer bits that this device supports."""
        others: dict[str, list[Work]] = {}
        if kind != "bf16":
            return others
        for name, make in (("dense fp8", _dense_fp8), ("dense int4", _dense_int4)):
            try:
                works = make(x, w, count)
                works[0]()
            except RuntimeError as why:
                notes[name] = f"none here: {first_line(why)}"
            else:
                others[name] = works
        return others


def _generator(device: torch.device) -> torch.Generator:
    """Return a generator that no CUDA graph uses: a failed capture leaves torch's own unusable."""
    return torch.Generator(device).manual_seed(0)


def _randn(*shape: int, device: torch.device) -> Tensor:
    return torch.randn(*shape, device=device, generator=_generator(device))


def _scale(y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Multiply a product by the scales of its rows and columns, in its dtype. Dense fp8 products do
    so themselves."""
    return (y * rows[:, None] * columns).to(y.dtype)


def _convert(x: Tensor, w: Tensor, kind: str) -> tuple[Tensor, ...]:
    """Convert x and w to the kind's dtype. fp8 also returns the float32 scales of their rows."""
    if kind in ("bf16", "fp16"):
        return x.to(DTYPES[kind]), w.to(DTYPES[kind])
    largest = MAX_INT8 if kind == "int8" else MAX_FP8
    scales = [t.abs().amax(1).float().clamp(min=1e-12) / largest for t in (x, w)]
    rows = [t.float() / s[:, None] for t, s in zip((x, w), scales, strict=True)]
    if kind == "int8":
        return tuple(r.round().to(torch.int8) for r in rows)
    return (*(r.to(torch.float8_e4m3fn) for r in rows), *scales)


def _int8(x: Tensor, w: Tensor) -> Tensor:
    y: Tensor = torch._int_mm(x, w.t())
    return y


def _fp8(x: Tensor, w: Tensor, x_scale: Tensor, w_scale: Tensor) -> Tensor:
    y: Tensor = torch._scaled_mm(
        x,
        w.t(),
        scale_a=x_scale[:, None],
        scale_b=w_scale[None],
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )
    return y


_PRODUCTS: dict[str, Callable[..., Tensor]] = {
    "bf16": linear,
    "fp16": linear,
    "int8": _int8,
    "fp8": _fp8,
}


def _dense_fp8(x: Tensor, w: Tensor, count: int) -> list[Work]:
    rows, weight, *scales = _convert(x, w, "fp8")
    return [partial(_fp8, rows, c, *scales) for c in _copies(weight, count)]


def _dense_int4(x: Tensor, w: Tensor, count: int) -> list[Work]:
    """Return torch's int4 product with random weights, because only its time counts."""
    out, width = w.shape
    joined = torch.randint(
        256, (out, width // 2), dtype=torch.uint8, device=w.device, generator=_generator(w.device)
    )
    packed = torch._convert_weight_to_int4pack(joined, 8)
    scales = _randn(width // INT4_GROUP, out, 2, device=w.device).bfloat16()
    return [
        partial(torch._weight_int4pack_mm, x, c, INT4_GROUP, scales) for c in _copies(packed, count)
    ]


def _steps(models: dict[str, nn.Module], make: StepFactory) -> dict[str, Work]:
    """Return a step of each model, eager and compiled. Raise WrongProduct for wrong logits."""
    steps = {name: make(model) for name, model in models.items()}
    for name, model in models.items():
        compiled = make(torch.compile(model, mode="max-autotune-no-cudagraphs", dynamic=False))
        check_product(f"{name} compiled", compiled(), steps[name]().float(), MODEL_TOLERANCE)
        steps[f"{name} compiled"] = compiled
    return steps


def _captured(works: dict[str, Work]) -> dict[str, Work]:
    """Return a CUDA graph of each work, or the work itself if it cannot be captured."""
    return {name: _capture(work) for name, work in works.items()}


def _capture(work: Work) -> Work:
    try:
        return capture_graph(work)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as why:
        return UncapturedWork(work, first_line(why))


def _named_eager(works: dict[str, Work]) -> dict[str, Work]:
    """Return the works under the names that they have beside their graphs."""
    return {f"{name}, no graph": work for name, work in works.items()}


def _passes(side: Mapping[str, Sequence[Work]]) -> dict[str, Work]:
    """Return works that do all of each name's products in one call."""
    return {name: _pass(works) for name, works in side.items()}


def _copies(tensor: Tensor, count: int) -> list[Tensor]:
    return [tensor, *(tensor.clone() for _ in range(count - 1))]


def _pass(works: Sequence[Work]) -> Work:
    def call_each() -> None:
        for work in works:
            work()

    return call_each
