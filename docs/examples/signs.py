"""A quantizer, and the codec that turns what it stores into weights again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from methods import Job, Needs, Outcome, StoredWeight, Walk


@dataclass(frozen=True)
class SignCodec:
    """Parts: `signs` uint8 [out, in], one bit each; `scales` float16 [out, 1]."""

    name: ClassVar[str] = "signs"
    bits: ClassVar[Mapping[str, int]] = {"signs": 1}

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        return (2 * parts["signs"].float() - 1) * parts["scales"].float()


def store_signs(weight: Tensor) -> StoredWeight:
    """Store a linear, or with `--quant int8:embed=signs` an embedding."""
    signs, scales = (weight >= 0).to(torch.uint8), weight.abs().mean(1, keepdim=True).half()
    return StoredWeight(SignCodec(), {"signs": signs, "scales": scales})


@dataclass(frozen=True)
class Signs:
    """The sign of each weight, times the mean magnitude of its row."""

    name: ClassVar[str] = "signs"
    needs: ClassVar[Needs] = Needs.NOTHING

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        walk = Walk(model, job)
        for visit in walk:
            visit.store(*store_signs(visit.weight)[:2])
        return walk.outcome()
