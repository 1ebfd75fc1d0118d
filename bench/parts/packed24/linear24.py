"""A linear layer that computes with packed weights, and models built from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from bench.inputs import architecture
from bench.parts.packed24 import cpu24, native, operators
from bench.parts.packed24.cusparselt import CompressedWeight
from bench.parts.packed24.folder24 import PACKED, Folder24
from bench.parts.packed24.packing import PackedWeight, unpack
from bench.parts.packed24.timing import CudaClock
from bench.parts.packed24.windows24 import window_columns
from methods.contract.errors import UserError
from methods.contract.method import Compute

LARGE = 2**22
"""Bytes from which numpy asks for large pages."""
ENGINES = ("native", "cusparselt", "reference")
MAX_PORTABLE_ROWS = 16
"""Number of rows of x above which the portable path is slower than a product of torch with the
unpacked weights."""


class Linear24(nn.Module):
    """A linear y = x W^T + b with a packed W [out, in], 2:4 or dense. It cannot be moved to another
    device.

    engine: "native" is the kernel for a CPU, "cusparselt" the library for a CUDA device
    (unverified), and "reference" unpacks W at each call. None selects the first that supports the
    weight and the device.
    """

    def __init__(
        self,
        packed: PackedWeight | cpu24.KernelWeight,
        bias: Tensor | None,
        *,
        device: torch.device | None = None,
        engine: str | None = None,
    ) -> None:
        super().__init__()
        if engine not in (None, *ENGINES):
            raise UserError(f"unknown engine {engine!r}: give {', '.join(ENGINES)}, or None")
        self.device = device or torch.device("cpu")
        self.engine = engine or _engine(packed, self.device)
        self.out_features, self.in_features = packed.shape
        self.bias = (
            None if bias is None else nn.Parameter(bias.to(self.device), requires_grad=False)
        )
        self.packed: PackedWeight | None = None
        self.kernel_weight: cpu24.KernelWeight | None = None
        self.cusparselt_weight: CompressedWeight | None = None
        if isinstance(packed, cpu24.KernelWeight):
            self.use(packed)
            return
        if self.engine == "native":
            self.use(cpu24.to_kernel_layout(packed))
            return
        # cuSPARSELt's layout cannot be converted back.
        self.packed = packed
        if self.engine == "cusparselt":
            self.cusparselt_weight = CompressedWeight(unpack(packed).to(self.device), CudaClock())

    def use(self, weight: cpu24.KernelWeight) -> None:
        """Compute with this weight from now on. A graph that is captured names its tensors as
        buffers."""
        self.kernel_weight = weight
        self.register_buffer("memory", weight.memory, persistent=False)
        self.register_buffer("scales", weight.scales, persistent=False)

    def dense_weight(self) -> Tensor:
        """Return the unpacked weight [out, in]."""
        if self.kernel_weight is not None:
            return cpu24.unpack_kernel_weight(self.kernel_weight)
        assert self.packed is not None
        return unpack(self.packed)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weight in memory."""
        kernel, library = self.kernel_weight, self.cusparselt_weight
        if kernel is not None:
            scales = 0 if kernel.scales is None else kernel.scales.nbytes
            return kernel.memory.nbytes + scales
        assert self.packed is not None
        copied = library.memory.nbytes if library else 0
        return self.packed.nbytes + copied

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        kernel = self.kernel_weight
        if kernel is not None and self._takes(rows):
            wide = rows if x.dtype == torch.bfloat16 else rows.float()
            y = self._product(wide, kernel).to(x.dtype)
        elif self.cusparselt_weight is not None:
            y = self.cusparselt_weight.linear(rows, self.bias)
        else:
            y = linear(rows, self.dense_weight().to(x.device, x.dtype), self.bias)
        return y.reshape(*x.shape[:-1], y.shape[-1])

    def _takes(self, rows: Tensor) -> bool:
        """Return whether the native kernel multiplies these rows."""
        few = len(rows) <= MAX_PORTABLE_ROWS or native.select_path(native.load()) != "portable"
        return few and (isinstance(self.scales, Tensor) or rows.dtype == torch.bfloat16)

    def _product(self, rows: Tensor, weight: cpu24.KernelWeight) -> Tensor:
        """Multiply rows in float32 or bfloat16: [rows, out] in their dtype."""
        bias = self.bias if self.bias is None else self.bias.to(rows.dtype)
        if not torch.compiler.is_compiling():
            return cpu24.product(
                rows, weight, bias, threads=torch.get_num_threads(), dtype=rows.dtype
            )
        isa = native.PATHS.index(native.select_path(native.load()))
        y: Tensor = operators.packed_linear(rows, self.memory, self.scales, bias, isa)
        return y

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, engine={self.engine}"


def _engine(packed: PackedWeight | cpu24.KernelWeight, device: torch.device) -> str:
    if isinstance(packed, cpu24.KernelWeight):
        return "native"
    if (
        device.type == "cuda"
        and torch.backends.cusparselt.is_available()
        and packed.kind == "float"
    ):
        return "cusparselt"
    if device.type == "cpu" and cpu24.supports(packed):
        try:
            native.load()
        except native.NoKernel:
            return "reference"
        return "native"
    return "reference"


def swap_linears(
    model: nn.Module,
    packed: Mapping[str, PackedWeight | cpu24.KernelWeight],
    *,
    engine: str | None = None,
) -> nn.Module:
    """Replace each module named in `packed` by a Linear24, in place. It keeps the bias and the
    hooks."""
    for name, weight in packed.items():
        old = model.get_submodule(name)
        bias: Any = getattr(old, "bias", None)
        device = next((p.device for p in old.parameters() if not p.is_meta), None)
        new = Linear24(weight, bias, device=device, engine=engine)
        # w8a8 rounds the inputs in such a hook, and a low-rank term is added in one.
        for hook in old._forward_pre_hooks.values():
            new.register_forward_pre_hook(hook)
        for after in old._forward_hooks.values():
            new.register_forward_hook(after)
        model.set_submodule(name, new)
    join_memory(model)
    return model


def join_memory(model: nn.Module) -> None:
    """Put the kernel's smaller weights one behind another, in place, in memory that numpy asks
    large pages for.

    Only large arrays get them. In others the processor looks up each page of 4 KiB.
    """
    linears = [module for module in model.modules() if isinstance(module, Linear24)]
    small = [
        (module, module.kernel_weight)
        for module in linears
        if module.kernel_weight and module.kernel_weight.memory.nbytes < LARGE
    ]
    starts = [0, *accumulate(-(-weight.memory.nbytes // 64) * 64 for _, weight in small)]
    room = torch.from_numpy(np.empty(starts[-1] + 64, dtype=np.uint8))
    room = room[-room.data_ptr() % 64 :]
    for start, (module, weight) in zip(starts, small, strict=False):
        place = room[start : start + weight.memory.nbytes].view(weight.memory.shape)
        module.use(replace(weight, memory=place.copy_(weight.memory)))


def use_dense_twins(model: nn.Module) -> nn.Module:
    """Replace each 2:4 weight of a model on the native kernel by that kernel's dense form, in
    place."""
    for module in model.modules():
        if not isinstance(module, Linear24):
            continue
        weight = module.kernel_weight
        if weight is not None and not weight.dense:
            module.use(cpu24.dense_twin(cpu24.from_kernel_layout(weight)))
    join_memory(model)
    return model


def pack_head(model: nn.Module, kind: str = "int8") -> nn.Module:
    """Put the output head of a model on the native kernel, in place: "bf16", or "int8" with a scale
    for each row.

    A tied embedding is not packed, because a token reads one row of it.
    """
    head: Any = model.get_output_embeddings()  # type: ignore[operator]
    name = next(name for name, module in model.named_modules() if module is head)
    weight = head.weight.detach()
    if kind == "bf16":
        packed = cpu24.to_dense_kernel_layout(weight.bfloat16())
    else:
        packed = cpu24.round_dense(weight, kind)
    model.set_submodule(name, Linear24(packed, head.bias))
    return model


def load(folder: Path | str, compute: Compute, *, engine: str | None = None) -> nn.Module:
    """Load the model of a packed24 folder on its packed weights. They are never all dense in
    memory.

    Raises:
        UserError: no packed24 folder, a damaged one, no Compute, or an unknown engine.
    """
    # Here, because it imports transformers.
    from bench.inputs import loading

    if not isinstance(compute, Compute):
        raise UserError(
            f"compute is {compute!r}: give methods.contract.Compute(device=..., dtype=...)"
        )
    folder = Path(folder)
    source = Folder24(folder)
    architecture.check(source)
    model: Any = loading.empty_model(folder, compute.dtype)
    repeated: dict[Linear24, Tensor] = {}
    for name, entry in source.entries.items():
        owner, _, leaf = name.rpartition(".")
        if entry.kind in PACKED:
            bias = f"{owner}.bias" if f"{owner}.bias" in source.entries else None
            bias_value = source.tensor(bias).to(compute.dtype) if bias else None
            module = Linear24(source.packed(name), bias_value, device=compute.device, engine=engine)
            if entry.windows:
                repeated[module] = window_columns(entry.shape[1], entry.windows).to(compute.device)
            model.set_submodule(owner, module)
    for name, entry in source.entries.items():
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        if entry.kind not in PACKED and not isinstance(module, Linear24):
            value = source.tensor(name)
            value = value.to(compute.dtype) if value.is_floating_point() else value
            setattr(module, leaf, nn.Parameter(value.to(compute.device), requires_grad=False))
    model.tie_weights()
    for module in model.modules():
        for key, buffer in module.named_buffers(recurse=False):
            setattr(module, key, buffer.to(compute.device))
    loaded = loading.add_rounding(model.eval().requires_grad_(False), folder)
    # After the hooks that round, because inputs share scales with their neighbors before they are
    # repeated.
    for module, columns in repeated.items():
        module.register_forward_pre_hook(lambda _, args, columns=columns: (args[0][..., columns],))
    return loaded
