"""ELSA: ADMM on the training loss itself, with no error of single layers in its place. Lee et al.
2025, arXiv 2510.01650.

Minimize f(x) so that x = z and z has the pattern. Facts of the released code, marked [c], were read
from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from methods import Cost, Job, MethodInfo, Needs, Outcome, Pattern, Settings, Trainer, UserError
from methods.contract.ranges import Beta, Count, Fraction, LearningRate, NonNegative
from methods.workshop.training.process_group import all_reduce_sum, is_single_process, local
from methods.workshop.training.trainer import other_parameters


class ElsaAdam(torch.optim.AdamW):
    """Adam on f(x) + lambda / 2 ||x - z + u||^2, where z is x + u under the pattern and u is the
    scaled dual variable.

    Every `interval` steps z becomes the projection of x + u, and then u grows by x - z. The pull
    lambda (x - z + u) is added to gradients that are clipped already. lambda may change at each
    step. The dual variable itself, lambda u, does not change with it, so u is divided by what
    lambda is multiplied with (Boyd et al. 2011, sec. 3.4.1). [c] changes lambda at projections
    only, and scales u one projection later.

    Groups with `sparse=True` are x, the weights to prune. State of each of them, besides Adam's:
    `split`, z, and `dual`, u in the scale of the lambda of the last projection.

    Args:
        total: number of steps of the whole training; lambda grows from 0 to `lambda_` over them,
            along a cosine, or is constant.
        projection: "momentum" keeps the largest sqrt(v) |x + u|, v being Adam's second moment, an
            estimate of the Fisher information; "identity" the largest |x + u|.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        total: int,
        pattern: Pattern,
        lambda_: float,
        schedule: str = "cosine",
        interval: int = 32,
        projection: str = "momentum",
        **adam: Any,
    ) -> None:
        groups = [{"sparse": False, "done": 0, "dual_lambda": 0.0} | group for group in params]
        super().__init__(groups, weight_decay=0.0, fused=True, **adam)
        self.total, self.pattern, self.interval = total, pattern, interval
        self.lambda_, self.schedule, self.projection = lambda_, schedule, projection
        self.metrics: dict[str, float] = {}
        """Points of the curve. gap: ||x - z|| / ||x|| of all weights to prune. flipped: fraction of
        z's pattern that has changed so far. lambda: strength of the pull."""

    def _sparse(self) -> Iterator[Tensor]:
        return (p for group in self.param_groups if group["sparse"] for p in group["params"])

    def lambda_at(self, step: int) -> float:
        """Return the strength of the pull in a step, counted from 0."""
        if self.schedule == "constant":
            return self.lambda_
        return self.lambda_ * (1 - math.cos(math.pi * step / self.total)) / 2

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step with the current gradients."""
        t, dual_strength = (self.param_groups[0][key] for key in ("done", "dual_lambda"))
        strength = self.lambda_at(t)
        splits: dict[Tensor, tuple[Tensor, Tensor]] = {}
        if t % self.interval == 0:
            splits = self._project(dual_strength / strength if strength else 0.0)
            dual_strength = strength
        for p in self._sparse():
            if p in splits:
                split, dual = splits[p]
            else:
                split, dual = self.state[p]["split"], self.state[p]["dual"]
            if p.grad is not None:
                local(p.grad).add_(local(p) - local(split), alpha=strength).add_(
                    local(dual), alpha=dual_strength
                )
        super().step()
        # After Adam's first step, which makes its state only where there is none.
        for p, (split, dual) in splits.items():
            self.state[p]["split"], self.state[p]["dual"] = split, dual
        for group in self.param_groups:
            group["done"] += 1
            group["dual_lambda"] = dual_strength
        self.metrics["lambda"] = strength

    def _project(self, scale: float) -> dict[Tensor, tuple[Tensor, Tensor]]:
        """Return the new z and u of each weight. scale: factor on the old u, for the change of
        lambda."""
        found = {}
        gaps = sizes = flips = count = 0.0
        for p in self._sparse():
            state = self.state[p]
            dual = state["dual"] * scale if "dual" in state else torch.zeros_like(p)
            target = p + dual
            keep = self._keep(p, target)
            split = torch.zeros_like(p)
            local(split).copy_(local(target).where(keep, 0))
            dual = target - split
            gaps += float((local(p) - local(split)).square().sum())
            sizes += float(local(p).square().sum())
            if "split" in state:
                flips += float(((local(state["split"]) != 0) != (local(split) != 0)).sum())
            count += keep.numel()
            found[p] = split, dual
        gaps, sizes, flips, count = all_reduce_sum(gaps, sizes, flips, count)
        flipped = self.metrics.get("flipped", 0.0) + flips / max(1.0, count)
        self.metrics |= {"gap": (gaps / sizes) ** 0.5 if sizes else 0.0, "flipped": flipped}
        return found

    def _keep(self, p: Tensor, target: Tensor) -> Tensor:
        """Return the mask of a projection, of the weight's local part."""
        score = local(target).abs()
        if self.projection == "momentum" and "exp_avg_sq" in self.state[p]:
            score = score * local(self.state[p]["exp_avg_sq"]).sqrt()
        return self.pattern.keep(score)

    @torch.no_grad()
    def apply_mask(self) -> None:
        """Set x to its own projection, without the dual variable."""
        for p in self._sparse():
            local(p).masked_fill_(~self._keep(p, p), 0)


@dataclass(frozen=True, kw_only=True)
class Elsa(Settings):
    """ADMM on the training loss: train while the weights are drawn to their own projection on the
    pattern.

    lambda: strength of the pull at the end; schedule: how it grows; interval: steps between two
    projections;
    projection: of which size the kept weights are, "momentum" times the root of Adam's second
    moment.

    No distillation by default, as in the paper. The projection and the schedule are the paper's.
    `elsa:released` has the defaults of the released code, except that its learning rate falls
    linearly.
    """

    name: ClassVar[str] = "elsa"
    needs: ClassVar[Needs] = Needs.TRAINING | Needs.TEACHER
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2510.01650",
        cost=Cost(training=6, state=24),
        presets={
            "released": {
                "warmup": 0.0,
                "beta2": 0.95,
                "schedule": "constant",
                "interval": 2,
                "projection": "identity",
            }
        },
    )
    lr: LearningRate = 2e-4
    beta2: Beta = 0.999
    eta: Fraction = 0.0
    lambda_: NonNegative = 0.01
    schedule: Literal["cosine", "constant"] = "cosine"
    interval: Count = 32
    projection: Literal["momentum", "identity"] = "momentum"

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if job.pattern.unstructured and not is_single_process():
            raise UserError(
                f"elsa with pattern {job.pattern} runs in one process: set training.processes=1, "
                "or use n:m"
            )
        changed = other_parameters(model, job.targets)
        trainer = Trainer(self.name, model, job, self)
        optimizer = ElsaAdam(
            trainer.groups(job.targets),
            total=trainer.total,
            pattern=job.pattern,
            lambda_=self.lambda_,
            schedule=self.schedule,
            interval=self.interval,
            projection=self.projection,
            **self.adam,
        )
        trainer.run(optimizer)
        cost = trainer.prune_at_the_end(optimizer.apply_mask)
        return Outcome(trainer.finalize(), changed=changed, notes=trainer.notes(**cost))
