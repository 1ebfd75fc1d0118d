"""Retraining: take a one-shot method's mask and weights, and train what is left while the mask is held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from methods.contract import Job, Needs, Outcome
from methods.errors import UserError
from methods.targets import holds_in_out
from methods.training.ranks import local, shard_like
from methods.training.settings import Settings
from methods.training.trainer import Trainer, outside


class Held(torch.optim.AdamW):
    """AdamW that leaves masked weights at zero: their gradients are dropped, so no momentum builds up."""

    def __init__(self, params: Any, masks: dict[nn.Parameter, Tensor], **options: Any) -> None:
        super().__init__(params, weight_decay=0.0, **options)
        self._masks = masks

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for parameter, keep in self._masks.items():
            if parameter.grad is not None:
                local(parameter.grad).masked_fill_(~keep, 0)
        super().step()


@dataclass(frozen=True, kw_only=True)
class Retrain(Settings):
    name: ClassVar[str] = "retrain"
    needs: ClassVar[Needs] = Needs.TRAINING | Needs.TEACHER

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if job.prior is None:
            raise UserError("retrain needs a mask to hold: write retrain:from=METHOD, for example from=wanda")
        changed = outside(model, job.targets)
        trainer = Trainer(self.name, model, job, self)
        theta, rest = trainer.parameters(job.targets)
        masks = {}
        for name, parameter in zip(job.targets, theta, strict=True):
            keep = job.prior.masks[name].to(parameter.device)  # [out, in]
            keep = keep.T if holds_in_out(model.get_submodule(name)) else keep
            masks[parameter] = shard_like(keep, parameter)
        optimizer = Held([*theta, *rest], masks, **self.adam, fused=True)
        trainer.run(optimizer, teacher=True)
        trainer.mark("end")
        return Outcome(trainer.done(), changed=changed, notes=trainer.notes())
