"""Training under a mask: SR-STE (Zhou et al. 2021, arXiv 2102.04010), AST (Huang et al. 2024, arXiv
2407.20584)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from methods import Job, MethodInfo, Needs, Outcome, Settings, Trainer
from methods.contract.info import DISTILLATION, TRAINING, Variant
from methods.contract.ranges import Count, Fraction, NonNegative, Positive
from methods.contract.rules import GroupsOnly
from methods.workshop.training.process_group import full_tensor, local, shard_like
from methods.workshop.training.trainer import bake, other_parameters


class _StraightThrough(torch.autograd.Function):
    """The masked weight forward; the gradient passes unchanged."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, keep: Tensor) -> Tensor:
        return weight.masked_fill(~keep, 0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class MaskedWeight(nn.Module):
    """The forward pass uses the masked weight; the gradient passes unchanged to the dense one."""

    keep: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("keep", torch.ones_like(weight, dtype=torch.bool), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        return _StraightThrough.apply(weight, self.keep)  # type: ignore[no-any-return, no-untyped-call]


class Masks:
    """The masks of all targets, updated during training."""

    def __init__(self, model: nn.Module, job: Job) -> None:
        self._modules = [model.get_submodule(t) for t in job.targets]
        self._pattern = job.pattern
        self.all = [MaskedWeight(m.weight) for m in self._modules]  # type: ignore[arg-type]
        for module, mask in zip(self._modules, self.all, strict=True):
            parametrize.register_parametrization(module, "weight", mask)

    @torch.no_grad()
    def choose(self) -> float:
        """Set each mask to the n largest |w| of each group. Returns the share of the masks that
        changed."""
        flips = count = 0.0
        for module, mask in zip(self._modules, self.all, strict=True):
            size = full_tensor(_dense_weight(module)).abs()
            keep = self._pattern.keep(size)
            flips += float((keep != mask.keep).sum())
            count += keep.numel()
            mask.keep.copy_(keep)
        return flips / count

    @torch.no_grad()
    def decay(self, strength: float) -> None:
        """Add strength * w to the gradients of the pruned weights."""
        for module, mask in zip(self._modules, self.all, strict=True):
            weight = _dense_weight(module)
            if weight.grad is not None:
                local(weight.grad).addcmul_(
                    local(weight), shard_like(~mask.keep, weight), value=strength
                )


def _dense_weight(module: nn.Module) -> Tensor:
    """Return the dense weight under the mask."""
    weight: Tensor = module.parametrizations.weight.original  # type: ignore[union-attr, assignment]
    return weight


@dataclass(frozen=True, kw_only=True)
class SrSte(Settings):
    """Straight-through masks, with decay on pruned weights.

    Masks by |w|, updated every `refresh` steps (1 in the paper). "auto": 1,000 times or at every
    step, and never more than 10 steps apart. In each step decay * w is added to the gradients of
    the pruned weights (eq. 9). No distillation by default, as in the paper.
    """

    name: ClassVar[str] = "sr-ste"
    needs: ClassVar[Needs] = Needs.TRAINING | Needs.TEACHER
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2102.04010", cost=TRAINING, rules=(GroupsOnly(),)
    )
    eta: Fraction = 0.0
    decay: NonNegative = 2e-4
    refresh: Count | Literal["auto"] = 1

    def refresh_steps(self, total: int) -> int:
        """Return the number of steps between two updates of the masks."""
        if self.refresh == "auto":
            return min(10, max(1, total // 1000))
        return self.refresh

    def decay_at(self, step: int, total: int) -> float:
        """Return the strength of the decay at a step, from 0."""
        return self.decay

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        job.pattern.require_groups(self.name)
        changed = other_parameters(model, job.targets)
        masks = Masks(model, job)
        trainer = Trainer(self.name, model, job, self)
        theta, rest = trainer.parameters(job.targets)
        optimizer = torch.optim.AdamW([*theta, *rest], **self.adam, weight_decay=0.0, fused=True)
        optimizer.metrics = {"flipped": 0.0, "decay": 0.0}  # type: ignore[attr-defined]  # a checkpoint has them

        def before(step: int, total: int) -> dict[str, float]:
            metrics: dict[str, float] = optimizer.metrics  # type: ignore[attr-defined]
            if step % self.refresh_steps(total) == 0:
                flips = masks.choose()
                metrics["flipped"] += flips if step else 0.0  # the first masks change none
            metrics["decay"] = self.decay_at(step, total)
            return metrics

        optimizer.register_step_pre_hook(lambda *_: masks.decay(optimizer.metrics["decay"]))  # type: ignore[attr-defined]
        trainer.run(optimizer, hook=before)
        masks.choose()
        trainer.log_validation("end")
        return Outcome(trainer.finalize(bake), changed=changed, notes=trainer.notes())


@dataclass(frozen=True, kw_only=True)
class Ast(SrSte):
    """SR-STE with annealed decay and distillation.

    AST's sparse training: SR-STE with a decay that grows over the first half, and distillation at T
    = 2.

    Without AST's low-rank branch, so that the result is a plain 2:4 model. AST's code adds the
    decay to the first moment of Adam in each step. Here it is a part of the gradient, as in SR-STE.
    """

    name: ClassVar[str] = "ast"
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2407.20584",
        cost=DISTILLATION,
        rules=(GroupsOnly(),),
        variant=Variant("no low-rank branch"),
    )
    eta: Fraction = 2 / 3
    temperature: Positive = 2.0
    decay: NonNegative = 2e-4
    refresh: Count | Literal["auto"] = "auto"

    def decay_at(self, step: int, total: int) -> float:
        return self.decay * min(1.0, 2 * step / total)
