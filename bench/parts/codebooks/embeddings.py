"""Formats of the embedding and of the head with the codes of rotated weights, rounded without
data."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.parts.codebooks.lattice import LatticeCodec
from bench.parts.codebooks.rotated import RotatedCodec
from bench.parts.codebooks.trellis import TrellisCodec
from methods.contract.codec import StoredWeight
from methods.workshop.transforms.incoherence import turn_weight


def tcq3(weight: Tensor) -> StoredWeight:
    """Round to trellis codes of 3 bits."""
    return _round(weight, TrellisCodec(3, _shape(weight)))


def tcq4(weight: Tensor) -> StoredWeight:
    """Round to trellis codes of 4 bits."""
    return _round(weight, TrellisCodec(4, _shape(weight)))


def e8(weight: Tensor) -> StoredWeight:
    """Round to points of the lattice E8, 4 bits."""
    return _round(weight, LatticeCodec(4, _shape(weight)))


def _shape(weight: Tensor) -> tuple[int, int]:
    rows, width = weight.shape
    return rows, width


def _round(weight: Tensor, codec: RotatedCodec) -> StoredWeight:
    no_feedback = torch.eye(weight.shape[1], device=weight.device)
    return StoredWeight(codec, codec.encode(turn_weight(weight), no_feedback))
