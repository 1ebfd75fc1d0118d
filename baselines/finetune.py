"""Fine-tuning of a sparse model under a fixed mask: all weights, or low-rank updates merged under
the mask.

Merging LoRA (Hu et al. 2021, arXiv 2106.09685) would fill the zeros. Here the mask is part of the
forward pass, W + scale * (B A) where W is not 0, so the merged weights are those that were trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from baselines.retrain import train_kept
from methods import Does, Job, MethodInfo, Needs, Outcome, Settings, Trainer, UserError
from methods.contract.info import TRAINING
from methods.contract.ranges import CountOrZero, Fraction, Positive
from methods.model.targets import dense_weight
from methods.workshop.training.trainer import bake


class LowRank(nn.Module):
    """weight + scale * B A where the weight is not 0; A [rank, columns] is initially random, B
    [rows, rank] zero."""

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
    """Train a sparse model further under its mask; rank= for low-rank updates.

    rank: rank of the updates, 0 to train all weights; alpha: the scale of the updates is alpha /
    rank. No distillation by default, since the text is new to the dense model too.
    """

    name: ClassVar[str] = "finetune"
    needs: ClassVar[Needs] = Needs.TRAINING | Needs.TEACHER
    info: ClassVar[MethodInfo] = MethodInfo(paper="none", does=Does.KEEPS_MASK, cost=TRAINING)
    eta: Fraction = 0.0
    rank: CountOrZero = 0
    alpha: Positive = 16.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha != type(self).alpha and not self.rank:
            raise ValueError("alpha scales the updates of a rank: leave it out, or add rank")

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        for name in job.targets:
            weight = dense_weight(model.get_submodule(name))
            if job.pattern.violations(weight):
                raise UserError(
                    f"{name} breaks pattern {job.pattern} before fine-tuning: start from a model "
                    "pruned to it, or name the model's pattern with --pattern"
                )
            # The product with a mask leaves -0.0, which packed formats keep as a weight. A write
            # takes memory of a mapped file.
            negative = weight.signbit() & (weight == 0)
            if bool(negative.any()):
                weight.detach().masked_fill_(negative, 0)
        if self.rank:
            return self._low_rank(model, job)
        return train_kept(
            self.name,
            self,
            model,
            job,
            lambda t: model.get_submodule(t).get_parameter("weight") != 0,
        )

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
        trainer.run(optimizer)
        trainer.log_validation("end")
        return Outcome(trainer.finalize(bake), notes=trainer.notes(rank=self.rank))
