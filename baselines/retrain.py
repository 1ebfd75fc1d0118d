"""Retraining: train the weights that a one-shot method kept, under its mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from methods import Does, Job, MethodInfo, Needs, Outcome, Settings, Trainer, UserError
from methods.contract.info import DISTILLATION
from methods.workshop.training.masked_adam import MaskedAdamW
from methods.workshop.training.process_group import shard_like
from methods.workshop.training.trainer import other_parameters


def train_kept(
    name: str,
    settings: Settings,
    model: nn.Module,
    job: Job,
    mask_of: Callable[[str], Tensor] | None = None,
) -> Outcome:
    """Train all weights, except the pruned weights of the targets.

    mask_of: returns the mask of a target by name, bool [out, in], True for a kept weight. None: all
    weights are kept.
    """
    changed = other_parameters(model, job.targets)
    trainer = Trainer(name, model, job, settings)
    theta, rest = trainer.parameters(job.targets)
    pairs = zip(job.targets, theta, strict=True)
    masks = {p: shard_like(mask_of(t).to(p.device), p) for t, p in pairs} if mask_of else {}
    optimizer = MaskedAdamW([*theta, *rest], masks, **settings.adam, fused=True)
    trainer.run(optimizer)
    trainer.log_validation("end")
    return Outcome(trainer.finalize(), changed=changed, notes=trainer.notes())


@dataclass(frozen=True, kw_only=True)
class Retrain(Settings):
    """Train the weights kept by a one-shot method, under its mask."""

    name: ClassVar[str] = "retrain"
    needs: ClassVar[Needs] = Needs.TRAINING | Needs.TEACHER
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="none",
        does=Does.KEEPS_MASK | Does.REFINES,
        after="sparsegpt",
        presets={"hidden": {"hidden": 1.0}},
        cost=DISTILLATION,
    )

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if job.prior is None:
            raise UserError(
                "retrain needs a mask: use retrain:from=METHOD, for example retrain:from=wanda"
            )
        job.prior.require(job.pattern, self.name)
        masks = job.prior.masks
        return train_kept(self.name, self, model, job, masks.__getitem__)
