"""Retraining: train the weights that a one-shot method kept, under its mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from methods import Job, Needs, Outcome, Settings, Trainer, UserError
from methods.targets import relayout
from methods.training.ranks import local, shard_like
from methods.training.trainer import other_parameters


class MaskedAdamW(torch.optim.AdamW):
    """AdamW that keeps pruned weights at zero: their gradients are set to zero, so they get no momentum."""

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
    """The weights of the prior, trained under its mask."""

    name: ClassVar[str] = "retrain"
    needs: ClassVar[Needs] = Needs.TRAINING | Needs.TEACHER

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if job.prior is None:
            raise UserError("retrain needs a mask: use retrain:from=METHOD, for example retrain:from=wanda")
        changed = other_parameters(model, job.targets)
        trainer = Trainer(self.name, model, job, self)
        theta, rest = trainer.parameters(job.targets)
        masks = {}
        for name, parameter in zip(job.targets, theta, strict=True):
            keep = relayout(model.get_submodule(name), job.prior.masks[name].to(parameter.device))
            masks[parameter] = shard_like(keep, parameter)
        optimizer = MaskedAdamW([*theta, *rest], masks, **self.adam, fused=True)
        trainer.run(optimizer, teacher=True)
        trainer.log_validation("end")
        return Outcome(trainer.finalize(), changed=changed, notes=trainer.notes())
