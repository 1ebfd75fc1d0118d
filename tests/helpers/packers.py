"""Naive packers of quantized weights, value by value, as the papers and formats define them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.formats.opening import open_checkpoint
from bench.inputs import architecture
from bench.inputs.wikimini import FOLDER
from methods.contract.errors import UserError

TINY = FOLDER.parent / "tiny"
GROUP = 16
AWQ_LANES = (0, 2, 4, 6, 1, 3, 5, 7)
"""Output of a word that each of its lanes holds."""


def words(values: list[int], bits: int) -> list[int]:
    """A stream of bits in words of 32, as signed integers. A value may span two words."""
    stream = sum(value << (bits * i) for i, value in enumerate(values))
    out = [(stream >> (32 * i)) & (2**32 - 1) for i in range(len(values) * bits // 32)]
    return [word - 2**32 if word >= 2**31 else word for word in out]


def packed(rows: Tensor, bits: int) -> Tensor:
    return torch.tensor([words(row.tolist(), bits) for row in rows], dtype=torch.int32)


def grid(weight: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return q [out, in], zeros and scales [out, groups], and the weight, asymmetric by groups."""
    grouped = weight.float().unflatten(1, (-1, GROUP))
    low, high = grouped.amin(-1), grouped.amax(-1)
    scales = ((high - low) / (2**bits - 1)).clamp_min(1e-4).half()
    zeros = (-low / scales.float()).round().clamp(1, 2**bits - 1).int()
    q = (grouped / scales.float()[..., None]).round() + zeros[..., None]
    q = q.clamp(0, 2**bits - 1).int()
    dense = (q - zeros[..., None]).float() * scales.float()[..., None]
    return q.flatten(1), zeros, scales, dense.flatten(1).half()


Packed = tuple[dict[str, Tensor], Tensor]


def gptq(weight: Tensor, bits: int, order: Tensor | None = None) -> Packed:
    """The parts of version 1, and the weight that they store. order: group of each input."""
    q, zeros, scales, dense = grid(weight, bits)
    if order is not None:
        columns = torch.argsort(torch.argsort(order, stable=True))
        q, dense = q[:, columns], dense[:, columns]
    groups = torch.arange(q.shape[1]) // GROUP if order is None else order
    parts = {"qweight": packed(q, bits).T, "qzeros": packed(zeros.T - 1, bits)}
    return parts | {"scales": scales.T, "g_idx": groups.int()}, dense


def awq(weight: Tensor) -> Packed:
    q, zeros, scales, dense = grid(weight, 4)

    def pack(rows: Tensor) -> Tensor:
        return packed(rows.unflatten(1, (-1, 8))[..., list(AWQ_LANES)].flatten(1), 4)

    return {"qweight": pack(q.T), "qzeros": pack(zeros.T), "scales": scales.T}, dense


def pack_quantized(weight: Tensor, bits: int = 4) -> Packed:
    """compressed-tensors: lanes along a row, zero points along the outputs."""
    q, zeros, scales, dense = grid(weight, bits)
    parts = {"packed": packed(q, bits), "zero_point": packed(zeros.T, bits).T, "scale": scales}
    parts["shape"] = torch.tensor(weight.shape)
    return {f"weight_{name}": part for name, part in parts.items()}, dense


def bitmask(weight: Tensor, prefix: str = "weight.") -> Packed:
    """compressed-tensors: kept values and a bit mask. llm-compressor 0.8 has no prefix."""
    bits = (weight != 0).unflatten(1, (-1, 8)).int()
    mask = (bits << torch.arange(8)).sum(-1).to(torch.uint8)
    shape = torch.tensor(weight.shape) if prefix else torch.tensor(weight.shape)[:, None]
    kept = weight[weight != 0].view(len(weight), -1)
    parts = {"compressed": kept, "bitmask": mask, "shape": shape}
    return {f"{prefix}{name}": part for name, part in parts.items()}, weight


def folder(path: Path, pack, quantization: dict, source: Path = TINY) -> dict[str, Tensor]:
    """Write a copy of a model with each linear packed. Return the weights that it stores."""
    shutil.copytree(source, path)
    tensors, stored = load_file(path / "model.safetensors"), {}
    for name in [n for n in tensors if n.endswith("proj.weight")]:
        parts, stored[name] = pack(tensors.pop(name))
        module = name.removesuffix(".weight")
        tensors |= {f"{module}.{part}": value.contiguous() for part, value in parts.items()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text()) | {"quantization_config": quantization}
    (path / "config.json").write_text(json.dumps(config))
    return stored


def halves_of_four(weight, prefix="weight."):
    """2:4 with the first two of every four kept."""
    return bitmask(weight * (torch.arange(weight.shape[1]) % 4 < 2), prefix)


def require_read(path: Path, pack: Callable, about: dict) -> None:
    """Require that a folder is read as its packer stored it, with the bytes that lie on disk."""
    stored = folder(path, pack, about)

    opened = open_checkpoint(path)
    architecture.check(opened)

    assert opened.is_quantized and not opened.is_packed
    for tensor, weight in stored.items():
        assert torch.equal(opened.tensor(tensor), weight), tensor
    on_disk = (path / "model.safetensors").stat().st_size
    total = sum(size.values + size.others for size in opened.stored().values())
    assert 0.95 * on_disk < total < on_disk


def refusal(path: Path, about: object) -> str:
    """Return the error of tiny with this quantization_config."""
    shutil.copytree(TINY, path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"quantization_config": about}))
    with pytest.raises(UserError) as fault:
        open_checkpoint(path)
    assert "plain safetensors" in str(fault.value)
    return str(fault.value)


def damage(path: Path, part: str, change: Callable) -> str:
    """Return the error for a linear of a written folder with a changed part, or without it if
    `change` gives None."""
    file = path / "model.safetensors"
    tensors = load_file(file)
    name = next(n for n in tensors if n.endswith(f"q_proj.{part}"))
    changed = change(tensors.pop(name))
    tensors |= {name: changed} if changed is not None else {}
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"the parts of .*q_proj ") as fault:
        open_checkpoint(path).tensor(name.replace(part, "weight"))
    return str(fault.value)
