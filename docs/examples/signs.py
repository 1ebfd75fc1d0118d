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
    """Also the format of an embedding or a head: `--quant int8:embed=signs`."""
    signs = (weight >= 0).to(torch.uint8)
    scales = weight.abs().mean(1, keepdim=True).half()
    return StoredWeight(SignCodec(), {"signs": signs, "scales": scales})


@dataclass(frozen=True)
class Signs:
    """The sign of each weight, times the mean magnitude of its row."""

    name: ClassVar[str] = "signs"
    needs: ClassVar[Needs] = Needs.NOTHING

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        walk = Walk(model, job)
        for visit in walk:
            stored = store_signs(visit.weight)
            visit.store(stored.codec, stored.parts)
        return walk.outcome()
