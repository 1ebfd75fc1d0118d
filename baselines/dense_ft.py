"""Dense fine-tuning: the same tokens, schedule and teacher, without sparsity. The control for methods that train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from methods import Job, MethodInfo, Needs, Outcome, Settings, Trainer
from methods.info import TRAINING
from methods.ranges import Fraction
from methods.training.trainer import other_parameters


@dataclass(frozen=True, kw_only=True)
class DenseFt(Settings):
    """The same training without sparsity: the control for training.

    Every weight is trained with Adam, as CAST trains those outside its targets.
    """

    name: ClassVar[str] = "dense-ft"
    needs: ClassVar[Needs] = Needs.TRAINING | Needs.TEACHER
    info: ClassVar[MethodInfo] = MethodInfo(paper="none", dense=True, cost=TRAINING)
    eta: Fraction = 0.0

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        changed = other_parameters(model, job.targets)
        trainer = Trainer(self.name, model, job, self)
        theta, rest = trainer.parameters(job.targets)
        optimizer = torch.optim.AdamW([*theta, *rest], **self.adam, weight_decay=0.0, fused=True)
        trainer.run(optimizer, teacher=True)
        trainer.log_validation("end")
        return Outcome(trainer.finalize(), changed=changed, notes=trainer.notes())
