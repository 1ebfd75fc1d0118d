"""Router: train the routers of a mixture alone, by KL divergence to the dense model.

After arXiv 2603.02217.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from methods import Does, Job, MethodInfo, Needs, Outcome, Settings, Trainer, UserError
from methods.contract.info import DISTILLATION
from methods.contract.ranges import Fraction, LearningRate
from methods.model.targets import family_of


@dataclass(frozen=True, kw_only=True)
class RouterTraining(Settings):
    """Train the routers of a mixture alone, by KL divergence to the dense model."""

    name: ClassVar[str] = "router"
    needs: ClassVar[Needs] = Needs.TRAINING | Needs.TEACHER
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2603.02217",
        does=Does.KEEPS_MASK | Does.REFINES,
        after="experts",
        cost=DISTILLATION,
    )
    lr: LearningRate = 1e-3
    eta: Fraction = 1.0

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        config = model.config.to_dict()  # type: ignore[operator, union-attr]
        family = family_of(config)
        if not family.experts:
            raise UserError(
                f"router trains the routers of a mixture, and a {config['model_type']} has none: "
                "use retrain in place of router"
            )
        trainer = Trainer(self.name, model, job, self)
        trainer.train_only(f".{family.dense[0]}.")
        trained = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(trained.values(), **self.adam, weight_decay=0.0, fused=True)
        trainer.run(optimizer)
        trainer.log_validation("end")
        return Outcome(trainer.finalize(), frozenset(trained), trainer.notes())
