"""Rounding of keys and values, as a cache of fewer bits stores them. The weights do not change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from methods.contract.info import Does, MethodInfo
from methods.contract.method import Job, Needs, Outcome
from methods.workshop.quantizing.inputs import CACHE_KEY


@dataclass(frozen=True)
class Kv8:
    """Keys and values in int8, one scale for each token and head.

    The loader rounds them after the rotary embedding, as a cache of 8 bits would store them.
    Weights keep their format.
    """

    name: ClassVar[str] = "kv8"
    needs: ClassVar[Needs] = Needs.NOTHING
    info: ClassVar[MethodInfo] = MethodInfo(does=Does.KEEPS_WEIGHTS)
    bits: ClassVar[int] = 8

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        return Outcome(model, config={CACHE_KEY: {"bits": self.bits}})


@dataclass(frozen=True)
class Kv4(Kv8):
    """Keys and values in int4, one scale for up to 32 values of a token and head."""

    name: ClassVar[str] = "kv4"
    bits: ClassVar[int] = 4
