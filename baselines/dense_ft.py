"""Dense fine-tuning: the same tokens, schedule and teacher, without sparsity. The control for
methods that train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from baselines.retrain import train_kept
from methods import Does, Job, MethodInfo, Needs, Outcome, Settings
from methods.contract.info import TRAINING
from methods.contract.ranges import Fraction


@dataclass(frozen=True, kw_only=True)
class DenseFt(Settings):
    """The same training without sparsity: the control for training.

    Every weight is trained with Adam, as CAST trains those outside its targets.
    """

    name: ClassVar[str] = "dense-ft"
    needs: ClassVar[Needs] = Needs.TRAINING | Needs.TEACHER
    info: ClassVar[MethodInfo] = MethodInfo(paper="none", does=Does.CONTROL, cost=TRAINING)
    eta: Fraction = 0.0

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        return train_kept(self.name, self, model, job)
