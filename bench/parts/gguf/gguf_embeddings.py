"""Q6_K for the embedding and the head, as files of llama.cpp have."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.parts.gguf.k_quants import GgmlCodec, type_for
from methods.contract.codec import StoredWeight

BLOCK, GROUP = 256, 16
"""Weights of a block, and those of it that share a scale."""


def q6_k(weight: Tensor) -> StoredWeight:
    """Round to 6 bits, with a scale in 8 bits for 16 values. Rows that are no multiple of 256 get
    Q8_0, as in llama.cpp.

    Each value is rounded to the nearest. llama.cpp also tries other scales.
    """
    from gguf import GGMLQuantizationType, quants

    kind = type_for("q6_k", weight.shape[1])
    if kind == "Q6_K":
        blocks = _blocks(weight.float())
    else:
        values = weight.float().contiguous().numpy()
        blocks = torch.from_numpy(quants.quantize(values, GGMLQuantizationType[kind]))
    return StoredWeight(GgmlCodec(kind), {"blocks": blocks})


def _blocks(weight: Tensor) -> Tensor:
    """Return the blocks of Q6_K, uint8 [rows, bytes of a row].

    A block is the lower 4 bits of its codes, their upper 2 bits, 16 scales in int8, and a scale of
    the scales in float16.
    """
    groups = weight.reshape(-1, BLOCK // GROUP, GROUP)
    farthest = groups.abs().argmax(-1, keepdim=True)
    scales = groups.gather(-1, farthest).squeeze(-1) / -32
    farthest = scales.abs().argmax(-1, keepdim=True)
    shared = (scales.gather(-1, farthest) / -128).half()
    units = shared.float()
    small = (scales / units.where(units != 0, 1)).round().clamp(-128, 127)
    steps = (small * units).unsqueeze(-1)
    codes = (groups / steps.where(steps != 0, 1)).round().clamp(-32, 31).masked_fill(steps == 0, 0)
    # Of each 128 codes, four rows of 32 share bytes.
    rows = (codes + 32).to(torch.uint8).reshape(-1, 2, 4, 32)
    low, high = rows & 15, rows >> 4
    lower = low[:, :, :2] | low[:, :, 2:] << 4
    upper = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    parts = (
        lower.flatten(1),
        upper.flatten(1),
        small.to(torch.int8).view(torch.uint8),
        shared.view(torch.uint8),
    )
    return torch.cat(parts, 1).reshape(len(weight), -1)
