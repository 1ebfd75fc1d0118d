"""CAST: train the weights while AdamS pulls the pruned ones to zero, guided by the dense model. arXiv 2509.25996."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from cast import scaling
from cast.adams import AdamS
from methods.contract import Job, Needs, Outcome
from methods.errors import UserError
from methods.targets import holds_in_out
from methods.training.settings import Settings
from methods.training.trainer import Trainer, outside


@dataclass(frozen=True, kw_only=True)
class Cast(Settings):
    """lambda: strength of the pull, or "auto" for `gain` times the mean |momentum| measured in the first steps: the
    paper has it of the order of the gradient, over thousands of steps [s]; in hundreds that leaves weights standing
    which the final prune then cuts, so a hundred times that is the default here;
    refresh: steps between two choices of the mask; scales: blocks of a row with a scale of their own, 0 for none;
    fixed: keep the first mask; decoupled: pull outside the adaptive step; kernel: of AdamS.
    """

    name: ClassVar[str] = "cast"
    needs: ClassVar[Needs] = Needs.TRAINING | Needs.TEACHER
    lambda_: float | Literal["auto"] = "auto"
    gain: float = 100.0
    refresh: int = 10
    scales: int = 2
    fixed: bool = False
    decoupled: bool = False
    kernel: Literal["auto", "reference", "foreach", "fused"] = "auto"

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if job.pattern.unstructured:
            raise UserError(f"cast works in groups: pattern {job.pattern} has none, take n:m")
        changed = outside(model, job.targets)
        if self.scales:
            scaling.add(model, job.targets, self.scales)
        trainer = Trainer(self.name, model, job, self)
        theta, rest = trainer.parameters(job.targets)
        optimizer = AdamS(
            [
                {"params": theta, "sparse": True, "transposed": holds_in_out(model.get_submodule(job.targets[0]))},
                {"params": rest},
            ],
            total=trainer.total,
            pattern=job.pattern,
            **self.adam,
            lambda_=self.lambda_,
            gain=self.gain,
            refresh=self.refresh,
            fixed=self.fixed,
            decoupled=self.decoupled,
            kernel=self.kernel,
        )
        trainer.run(optimizer, teacher=True)
        trainer.mark("before_final_prune")
        optimizer.finish()
        trainer.mark("after_final_prune")
        kept = optimizer.figures["S"]
        before, after = (trainer.perplexities[k] for k in ("before_final_prune", "after_final_prune"))
        return Outcome(
            trainer.done(lambda whole: scaling.fold(whole, job.targets) if self.scales else None),
            changed=changed,
            notes=trainer.notes(
                lambda_=optimizer.param_groups[0]["lambda_"],
                S=float(f"{kept:.6g}"),
                final_prune_cost=float(f"{after / before - 1:.4g}"),
                kernel=optimizer.kernel,
            ),
        )
