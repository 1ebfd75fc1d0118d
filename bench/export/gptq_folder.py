"""Export integer weights in the layouts of GPTQ (GPTQModel, AutoGPTQ) and AWQ (AutoAWQ), which transformers and vLLM read."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.export.integers import StoredLinears, require_linears
from bench.formats.gptq import AWQ_ORDER, AwqScheme, GptqScheme
from bench.kernels.integers24 import round_weight
from bench.verify import CheckFailed
from methods.errors import UserError
from methods.folder import Folder, Writer
from methods.targets import as_regexes, family_of, find_targets

LOADERS = {"gptq": ("gptqmodel", "optimum"), "awq": ("gptqmodel",)}
"""Packages with which transformers loads each format."""
INSTEAD = "--format compressed-tensors"
"""Format for a model that float16 cannot hold."""


def write(folder: Path, workdir: Path, kind: str, stored: StoredLinears | None, quantizer: str) -> dict[str, Any]:
    """Write a quantized model folder. kind: gptq or awq. Return keys of config.json.

    Each linear is decoded again by this project's reader and compared, bit for bit. All linears get one group, the largest
    that divides every group of the row, because the formats have one: scales are repeated. Floats are stored in float16,
    in which the loaders compute.

    Raises:
        UserError: the quantizer has no integers of that format, or the architecture is stored in another way.
        CheckFailed: a decoded weight differs.
    """
    source = Folder(folder)
    require_linears(source, kind)
    if stored is None or not stored.bits or (kind == "awq" and stored.bits != 4):
        able = "int4-rtn, int4-gptq or int4-awq" if kind == "awq" else "int8, or an int4 or int3 quantizer"
        raise UserError(f"quantizer {quantizer} has no weights in the format {kind}: use {able}")
    group = math.gcd(*stored.groups.values()) if stored.form.most else 0
    config = _config(source, kind, stored, group)
    scheme = (GptqScheme if kind == "gptq" else AwqScheme)(config)
    writer = Writer(workdir)
    for name in source:
        tensor, target = source.tensor(name), name.removesuffix(".weight")
        if target not in stored.groups:
            half = tensor.half() if tensor.is_floating_point() else tensor
            if half.is_floating_point() and not bool(half.isfinite().all()):
                raise UserError(f"{name} has values beyond float16, which {kind} folders have: use {INSTEAD}")
            writer.add(name, half)
            continue
        codes, scales, exact = round_weight(tensor, stored.bits, stored.groups[target])
        if not exact:
            raise UserError(f"{name} is not on the grid of {quantizer}: measure its row again")
        if group:
            scales = scales.repeat_interleave(stored.groups[target] // group, 1)
        parts = (gptq_parts if kind == "gptq" else awq_parts)(codes, scales, stored.bits, target)
        decoded = scheme.decode(parts | {"scales": parts["scales"].float()})
        if not torch.equal(decoded.to(tensor.dtype), tensor):
            raise CheckFailed(f"{name} reads back with other values, because a scale is too small for float16")
        for leaf, part in parts.items():
            writer.add(f"{target}.{leaf}", part)
    writer.close()
    return {"quantization_config": config, "dtype": "float16"}


def loads(kind: str) -> bool:
    """Return whether transformers can load the format here."""
    return all(importlib.util.find_spec(package) for package in LOADERS[kind])


def _config(source: Folder, kind: str, stored: StoredLinears, group: int) -> dict[str, Any]:
    left = sorted(set(find_targets(source.config, source.shapes())) - set(stored.groups))
    if kind == "awq":
        about: dict[str, Any] = {"quant_method": "awq", "version": "gemm", "zero_point": True}
        return {**about, "bits": 4, "group_size": group, "modules_to_not_convert": left or None}
    about = {"quant_method": "gptq", "checkpoint_format": "gptq", "sym": True, "desc_act": False, "lm_head": False}
    dynamic: dict[str, Any] = {f"-:{regex}": {} for regex in as_regexes(left, family_of(source.config))}
    return {**about, "bits": stored.bits, "group_size": group or -1, **({"dynamic": dynamic} if dynamic else {})}


def gptq_parts(codes: Tensor, scales: Tensor, bits: int, name: str) -> dict[str, Tensor]:
    """Return the parts of a linear in version 1 of GPTQ's layout, which stores each zero point less 1.

    codes: two's complement integers [out, in]; scales: [out, groups].
    """
    codes, scales = _unsigned(codes, bits), scales.T
    zeros = torch.full(scales.shape, 2 ** (bits - 1) - 1, dtype=torch.uint8)  # [groups, out]
    _require_words(codes.shape[1], bits, f"{name} has {codes.shape[1]} inputs")
    _require_words(len(codes), bits, f"{name} has {len(codes)} outputs")
    return {
        "qweight": pack_stream(codes, bits).T.contiguous(),
        "qzeros": pack_stream(zeros, bits),
        "scales": scales.half().contiguous(),
        "g_idx": (torch.arange(codes.shape[1]) // (codes.shape[1] // len(scales))).int(),
    }


def awq_parts(codes: Tensor, scales: Tensor, bits: int, name: str) -> dict[str, Tensor]:
    """Return the parts of a linear in AutoAWQ's layout for its kernel gemm. Arguments as in `gptq_parts`."""
    codes, scales = _unsigned(codes, bits), scales.T
    _require_words(len(codes), bits, f"{name} has {len(codes)} outputs")
    lanes = torch.tensor(AWQ_ORDER).argsort()
    words: Tensor = codes.T.unflatten(1, (-1, 8))[..., lanes].flatten(1)
    zeros = torch.full(scales.shape, 2 ** (bits - 1), dtype=torch.uint8)
    return {
        "qweight": pack_stream(words, bits),
        "qzeros": pack_stream(zeros, bits),
        "scales": scales.half().contiguous(),
    }


def _unsigned(codes: Tensor, bits: int) -> Tensor:
    """Return the integers plus the zero point 2^(bits - 1), uint8 [out, in]."""
    shifted: Tensor = (codes.int() + 2 ** (bits - 1)).to(torch.uint8)
    return shifted


def _require_words(count: int, bits: int, what: str) -> None:
    if count * bits % 32:
        raise UserError(f"{what}, and {bits} bits of each do not fill words of 32 bits: use --format hf")


def pack_stream(codes: Tensor, bits: int) -> Tensor:
    """Pack uint8 [rows, n] into a stream of bits, int32 [rows, n * bits / 32]. The inverse of `unpack_stream`."""
    single = (codes.unsqueeze(-1) >> torch.arange(bits, dtype=torch.uint8)) & 1
    return torch.from_numpy(np.packbits(single.flatten(1).numpy(), axis=1, bitorder="little").view(np.int32))
