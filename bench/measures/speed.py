"""Speed on a CUDA device. What runs here so far is the answer where there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.measures.contract import Readings, Rig
from methods.contract import Needs
from methods.errors import Skipped

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Speed:
    name: ClassVar[str] = "speed"
    needs: ClassVar[Needs] = Needs.NOTHING

    @property
    def protocol(self) -> str:
        return "cuda"

    def read(self, model: Callable[[], nn.Module], rig: Rig) -> Readings:
        """
        Raises:
            Skipped: always: there is no CUDA device, or no timing of its kernels yet.
        """
        if rig.compute.device.type != "cuda":
            raise Skipped("no CUDA device")
        raise Skipped("timing on CUDA is not built yet")
