"""Dense fine-tuning: the same tokens, schedule and guide, and no sparsity. The control that training costs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from methods.contract import Job, Needs, Outcome
from methods.training.settings import Settings
from methods.training.trainer import Trainer, outside


@dataclass(frozen=True, kw_only=True)
class DenseFt(Settings):
    """Every weight is trained with Adam, as CAST trains those outside its targets."""

    name: ClassVar[str] = "dense-ft"
    needs: ClassVar[Needs] = Needs.TRAINING | Needs.TEACHER
    eta: float = 0.0

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        changed = outside(model, job.targets)
        trainer = Trainer(self.name, model, job, self)
        theta, rest = trainer.parameters(job.targets)
        optimizer = torch.optim.AdamW([*theta, *rest], **self.adam, weight_decay=0.0, fused=True)
        trainer.run(optimizer, teacher=True)
        trainer.mark("end")
        return Outcome(trainer.done(), changed=changed, notes=trainer.notes())
