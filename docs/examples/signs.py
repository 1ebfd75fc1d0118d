"""A quantizer, and the codec that turns what it stores into weights again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from methods import Job, Needs, Outcome, Walk


@dataclass(frozen=True)
class SignCodec:
    """Parts: `signs` uint8 [out, in], one bit each; `scales` float16 [out, 1]."""

    name: ClassVar[str] = "signs"
    bits: ClassVar[Mapping[str, int]] = {"signs": 1}

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        return (2 * parts["signs"].float() - 1) * parts["scales"].float()


@dataclass(frozen=True)
class Signs:
    """The sign of each weight, times the mean magnitude of its row."""

    name: ClassVar[str] = "signs"
    needs: ClassVar[Needs] = Needs.NOTHING

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        walk = Walk(model, job)
        for visit in walk:
            signs = (visit.weight >= 0).to(torch.uint8)
            scales = visit.weight.abs().mean(1, keepdim=True).half()
            visit.store(SignCodec(), {"signs": signs, "scales": scales})
        return walk.outcome()
