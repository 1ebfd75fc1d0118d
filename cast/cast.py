"""CAST: train while AdamS pulls pruned weights to zero, with distillation from the dense model.
arXiv 2509.25996."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import nn

from cast import scaling
from cast.adams import AdamS
from cast.wanda_mask import WandaAdamS
from methods import Job, MethodInfo, Needs, Outcome, Settings, Trainer
from methods.contract.info import DISTILLATION
from methods.contract.ranges import Count, CountOrZero, NonNegative, Positive
from methods.contract.rules import GroupsOnly
from methods.workshop.training.trainer import other_parameters


@dataclass(frozen=True, kw_only=True)
class Cast(Settings):
    """Train while AdamS pulls pruned weights to zero.

    lambda: strength of the pull. "auto": `lambda_scale` times the mean |momentum|, corrected for
    bias, of each of the first `refresh` steps, and the last of them from there on.
    refresh: steps between two updates of the mask; scales: blocks of a row with a scale each, 0 for
    no scales;
    fixed: keep the first mask; decoupled: pull outside the adaptive step, by lr times alpha,
    whatever lambda is;
    kernel: implementation of AdamS.
    mask: by which size the kept weights are chosen: "magnitude", |w|, as in the paper; "wanda", |w|
    times the norm of the input.

    With `from=` it starts from a pruned model's weights; its mask is free to move.
    """

    name: ClassVar[str] = "cast"
    needs: ClassVar[Needs] = Needs.TRAINING | Needs.TEACHER
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2509.25996",
        presets={
            "no-scaling": {"scales": 0},
            "no-kd": {"eta": 0.0},
            "fixed-mask": {"fixed": True},
            "decoupled": {"decoupled": True},
            "wanda-mask": {"mask": "wanda"},
            "hidden": {"hidden": 1.0},
        },
        cost=DISTILLATION,
        rules=(GroupsOnly(),),
    )
    lambda_: NonNegative | Literal["auto"] = "auto"
    lambda_scale: Positive = 100.0
    refresh: Count = 10
    scales: CountOrZero = 2
    fixed: bool = False
    decoupled: bool = False
    mask: Literal["magnitude", "wanda"] = "magnitude"
    kernel: Literal["auto", "reference", "foreach", "fused"] = "auto"

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        job.pattern.require_groups("cast")
        changed = other_parameters(model, job.targets)
        if self.scales:
            scaling.add(model, job.targets, self.scales)
        # Hooks on inputs would be compiled with their block, and again for each of its calls.
        settings = self
        if self.mask == "wanda" and self.compile == "auto":
            settings = replace(self, compile="off")
        trainer = Trainer(self.name, model, job, settings)
        groups = trainer.groups(job.targets)
        kind = WandaAdamS if self.mask == "wanda" else AdamS
        optimizer = kind(
            groups,
            total=trainer.total,
            pattern=job.pattern,
            **self.adam,
            lambda_=self.lambda_,
            lambda_scale=self.lambda_scale,
            refresh=self.refresh,
            fixed=self.fixed,
            decoupled=self.decoupled,
            kernel=self.kernel,
        )
        linears = [
            (trainer.model.get_submodule(name), p)
            for name, p in zip(job.targets, groups[0]["params"], strict=True)
        ]
        watching = optimizer.watch(linears) if isinstance(optimizer, WandaAdamS) else nullcontext()
        with watching:
            trainer.run(optimizer)
        cost = trainer.prune_at_the_end(optimizer.apply_mask)
        pull = {} if self.decoupled else {"lambda_": optimizer.param_groups[0]["lambda_"]}
        fold = scaling.fold if self.scales else None
        return Outcome(
            trainer.finalize(fold),
            changed=changed,
            notes=trainer.notes(
                **pull, S=float(f"{optimizer.metrics['S']:.6g}"), **cost, kernel=optimizer.kernel
            ),
        )
