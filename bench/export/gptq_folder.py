"""Export integer weights in the layouts of GPTQ (GPTQModel, AutoGPTQ) and AWQ (AutoAWQ), which
transformers and vLLM read."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.export.integers import grids_of, require_linears
from bench.formats.gptq import AWQ_ORDER, AwqScheme, GptqScheme
from bench.formats.stored import StoredFolder, pack_rows
from bench.verify import CheckFailed
from methods.contract.errors import UserError
from methods.model.folder import Folder, Writer
from methods.model.targets import as_regexes, family_of, find_targets
from methods.workshop.quantizing.grid_codec import GridCodec
from methods.workshop.quantizing.inputs import ACTIVATIONS_KEY
from methods.workshop.quantizing.integers import integers_of

LOADERS = {"gptq": ("gptqmodel", "optimum"), "awq": ("gptqmodel",)}
"""Packages with which transformers loads each format."""
BITS = {"gptq": (2, 3, 4, 8), "awq": (4,)}
"""Bits that each format has."""
INSTEAD = "--format compressed-tensors"
"""Format for a model that float16 cannot hold."""


def write(folder: Path, workdir: Path, kind: str) -> dict[str, Any]:
    """Write a quantized model folder. kind: gptq or awq. Return keys of config.json.

    Each linear is decoded again by this project's reader and compared, bit for bit. All linears get
    one group, the largest
    that divides every group of the row, because the formats have one: scales are repeated. Floats
    are stored in float16, in which the loaders compute.

    Raises:
        UserError: the folder has no integers of that format, or the architecture is stored in
        another way. CheckFailed: a decoded weight differs.
    """
    source, stored = Folder(folder), StoredFolder(folder)
    require_linears(source, kind)
    if source.config.get(ACTIVATIONS_KEY):
        raise UserError(
            f"{folder} rounds inputs of linears while it runs, which {kind} has not: use {INSTEAD}"
        )
    codecs = grids_of(stored, kind)
    bits = _bits_of(codecs, kind)
    group = math.gcd(*(codec.group for codec in codecs.values()))
    by_row = all(stored.shape(target)[1] == codec.group for target, codec in codecs.items())
    config = _config(source, kind, set(codecs), bits, 0 if by_row else group)
    scheme = (GptqScheme if kind == "gptq" else AwqScheme)(config)
    writer = Writer(workdir)
    for name in source:
        tensor, target = source.tensor(name), name.removesuffix(".weight")
        if target not in codecs:
            half = tensor.half() if tensor.is_floating_point() else tensor
            if half.is_floating_point() and not bool(half.isfinite().all()):
                raise UserError(
                    f"{name} has values beyond float16, which {kind} folders have: use {INSTEAD}"
                )
            writer.add(name, half)
            continue
        integers = integers_of(stored[target])
        if not by_row:
            integers = integers.split(group)
        parts = (gptq_parts if kind == "gptq" else awq_parts)(
            integers.codes, integers.scales, bits, target
        )
        decoded = scheme.decode(parts | {"scales": parts["scales"].float()})
        if not torch.equal(decoded.to(tensor.dtype), tensor):
            raise CheckFailed(
                f"{name} reads back with other values, because a scale is too small for float16"
            )
        for leaf, part in parts.items():
            writer.add(f"{target}.{leaf}", part)
    writer.close()
    return {"quantization_config": config, "dtype": "float16"}


def _bits_of(codecs: Mapping[str, GridCodec], kind: str) -> int:
    """Return the bits of all linears. Raise UserError if they are not integers of one size that the
    format has."""
    kinds = {(codec.grid, codec.width) for codec in codecs.values()}
    able = [("integer", bits) for bits in BITS[kind]]
    if len(kinds) > 1 or not kinds <= set(able):
        found = ", ".join(f"{grid} of {bits} bits" for grid, bits in sorted(kinds))
        sizes = ", ".join(map(str, BITS[kind]))
        raise UserError(
            f"{kind} has integers of {sizes} bits, and these weights are {found}: use --format "
            "stored"
        )
    return kinds.pop()[1]


def loads(kind: str) -> bool:
    """Return whether transformers can load the format here."""
    return all(importlib.util.find_spec(package) for package in LOADERS[kind])


def _config(source: Folder, kind: str, stored: set[str], bits: int, group: int) -> dict[str, Any]:
    left = sorted(set(find_targets(source.config, source.shapes())) - stored)
    if kind == "awq":
        about: dict[str, Any] = {"quant_method": "awq", "version": "gemm", "zero_point": True}
        return {**about, "bits": 4, "group_size": group, "modules_to_not_convert": left or None}
    about = {
        "quant_method": "gptq",
        "checkpoint_format": "gptq",
        "sym": True,
        "desc_act": False,
        "lm_head": False,
    }
    dynamic: dict[str, Any] = {
        f"-:{regex}": {} for regex in as_regexes(left, family_of(source.config))
    }
    return {
        **about,
        "bits": bits,
        "group_size": group or -1,
        **({"dynamic": dynamic} if dynamic else {}),
    }


def gptq_parts(codes: Tensor, scales: Tensor, bits: int, name: str) -> dict[str, Tensor]:
    """Return the parts of a linear in version 1 of GPTQ's layout, which stores each zero point less
    1.

    codes: two's complement integers [out, in]; scales: [out, groups].
    """
    codes, scales = _unsigned(codes, bits), scales.T
    zeros = torch.full(scales.shape, 2 ** (bits - 1) - 1, dtype=torch.uint8)  # [groups, out]
    _require_words(codes.shape[1], bits, f"{name} has {codes.shape[1]} inputs")
    _require_words(len(codes), bits, f"{name} has {len(codes)} outputs")
    return {
        "qweight": pack_rows(codes, bits).T.contiguous(),
        "qzeros": pack_rows(zeros, bits),
        "scales": scales.half().contiguous(),
        "g_idx": (torch.arange(codes.shape[1]) // (codes.shape[1] // len(scales))).int(),
    }


def awq_parts(codes: Tensor, scales: Tensor, bits: int, name: str) -> dict[str, Tensor]:
    """Return the parts of a linear in AutoAWQ's layout for its kernel gemm. Arguments as in
    `gptq_parts`."""
    codes, scales = _unsigned(codes, bits), scales.T
    _require_words(len(codes), bits, f"{name} has {len(codes)} outputs")
    lanes = torch.tensor(AWQ_ORDER).argsort()
    words: Tensor = codes.T.unflatten(1, (-1, 8))[..., lanes].flatten(1)
    zeros = torch.full(scales.shape, 2 ** (bits - 1), dtype=torch.uint8)
    return {
        "qweight": pack_rows(words, bits),
        "qzeros": pack_rows(zeros, bits),
        "scales": scales.half().contiguous(),
    }


def _unsigned(codes: Tensor, bits: int) -> Tensor:
    """Return the integers plus the zero point 2^(bits - 1), uint8 [out, in]."""
    shifted: Tensor = (codes.int() + 2 ** (bits - 1)).to(torch.uint8)
    return shifted


def _require_words(count: int, bits: int, what: str) -> None:
    if count * bits % 32:
        raise UserError(
            f"{what}, and {bits} bits of each do not fill words of 32 bits: use --format hf"
        )
