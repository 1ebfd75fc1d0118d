"""Fine-tuning of a sparse model with its zeros held: all weights, or low-rank updates merged under the mask.

A plain merge of LoRA (Hu et al. 2021, arXiv 2106.09685) fills the zeros again. Here the mask is part of the forward pass,
W + scale * (B A) where W is not 0, so what is merged is what was trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from baselines.retrain import Held
from methods.contract import Job, Needs, Outcome
from methods.errors import UserError
from methods.targets import holds_in_out
from methods.training.ranks import shard_like
from methods.training.settings import Settings
from methods.training.trainer import Trainer, outside


class LowRank(nn.Module):
    """weight + scale * B A where the weight is not 0; A [rank, columns] random, B [rows, rank] zero at first."""

    keep: Tensor

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.a = nn.Parameter(torch.randn(rank, columns, dtype=torch.float32) / rank**0.5)
        self.b = nn.Parameter(torch.zeros(rows, rank, dtype=torch.float32))
        self.scale = scale
        self.register_buffer("keep", weight != 0, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        update = (self.scale * self.b) @ self.a
        return weight + update.to(weight.dtype).masked_fill(~self.keep, 0)


@dataclass(frozen=True, kw_only=True)
class Finetune(Settings):
    """rank: of the updates, 0 to train all weights; alpha: their scale is alpha / rank. No distillation by default: the
    text is new to the dense model too.
    """

    name: ClassVar[str] = "finetune"
    needs: ClassVar[Needs] = Needs.TRAINING | Needs.TEACHER
    eta: float = 0.0
    rank: int = 0
    alpha: float = 16.0

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        for name in job.targets:
            module = model.get_submodule(name)
            weight: Tensor = module.weight  # type: ignore[assignment]
            if job.pattern.violations(weight.T if holds_in_out(module) else weight):
                raise UserError(
                    f"{name} does not hold {job.pattern} before fine-tuning: start from a model pruned to it, "
                    "or name its pattern by --pattern"
                )
        return self._low_rank(model, job) if self.rank else self._whole(model, job)

    def _whole(self, model: nn.Module, job: Job) -> Outcome:
        changed = outside(model, job.targets)
        trainer = Trainer(self.name, model, job, self)
        theta, rest = trainer.parameters(job.targets)
        masks = {}
        for name, parameter in zip(job.targets, theta, strict=True):
            masks[parameter] = shard_like(model.get_submodule(name).weight.detach() != 0, parameter)  # type: ignore[operator]
        optimizer = Held([*theta, *rest], masks, **self.adam, fused=True)
        trainer.run(optimizer, teacher=True)
        trainer.mark("end")
        return Outcome(trainer.done(), changed=changed, notes=trainer.notes())

    def _low_rank(self, model: nn.Module, job: Job) -> Outcome:
        for name in job.targets:
            module = model.get_submodule(name)
            added = LowRank(module.weight, self.rank, self.alpha / self.rank)  # type: ignore[arg-type]
            parametrize.register_parametrization(module, "weight", added.to(module.weight.device))  # type: ignore[arg-type]
        trainer = Trainer(self.name, model, job, self)
        trainer.train_only(".parametrizations.weight.0.")
        optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad],
            **self.adam,
            weight_decay=0.0,
            fused=True,
        )
        trainer.run(optimizer, teacher=True)
        trainer.mark("end")
        return Outcome(trainer.done(lambda whole: merge(whole, job)), notes=trainer.notes(rank=self.rank))


@torch.no_grad()
def merge(model: nn.Module, job: Job) -> None:
    """Put the updates into the weights; zeros stay zeros."""
    for module in map(model.get_submodule, job.targets):
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
