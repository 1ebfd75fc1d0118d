"""Formats of the embedding and of the head with trellis codes, rounded without data."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.parts.codebooks.trellis import TrellisCodec
from methods.contract.codec import StoredWeight
from methods.workshop.transforms.incoherence import turn_weight


def tcq3(weight: Tensor) -> StoredWeight:
    """Round to trellis codes of 3 bits."""
    return _round(weight, 3)


def tcq4(weight: Tensor) -> StoredWeight:
    """Round to trellis codes of 4 bits."""
    return _round(weight, 4)


def _round(weight: Tensor, bits: int) -> StoredWeight:
    rows, width = weight.shape
    codec = TrellisCodec(bits, (rows, width))
    no_feedback = torch.eye(width, device=weight.device)
    return StoredWeight(codec, codec.encode(turn_weight(weight), no_feedback))
