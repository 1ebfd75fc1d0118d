"""Dense: the model is not changed. The control that every other row is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from methods import Cost, Does, Job, MethodInfo, Needs, Outcome


@dataclass(frozen=True)
class Dense:
    """No pruning: the control."""

    name: ClassVar[str] = "dense"
    needs: ClassVar[Needs] = Needs.NOTHING
    info: ClassVar[MethodInfo] = MethodInfo(paper="none", does=Does.CONTROL, cost=Cost())

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        return Outcome(model)
