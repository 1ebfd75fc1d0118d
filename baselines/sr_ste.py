"""Training through a mask: SR-STE (Zhou et al. 2021, arXiv 2102.04010) and AST (Huang et al. 2024, arXiv 2407.20584)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from methods.contract import Job, Needs, Outcome
from methods.errors import UserError
from methods.targets import holds_in_out
from methods.training.ranks import full_tensor, local, shard_like
from methods.training.settings import Settings
from methods.training.trainer import Trainer, outside


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, keep: Tensor) -> Tensor:
        return weight.masked_fill(~keep, 0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class Masked(nn.Module):
    """The forward pass sees the masked weight; the gradient goes straight through to the dense one."""

    keep: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("keep", torch.ones_like(weight, dtype=torch.bool), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        return _Through.apply(weight, self.keep)  # type: ignore[no-any-return, no-untyped-call]


class Masks:
    """The masks of all targets: put on, chosen anew as training goes on, taken off."""

    def __init__(self, model: nn.Module, job: Job) -> None:
        self._modules = [model.get_submodule(t) for t in job.targets]
        self._pattern = job.pattern
        self.all = [Masked(m.weight) for m in self._modules]  # type: ignore[arg-type]
        for module, mask in zip(self._modules, self.all, strict=True):
            parametrize.register_parametrization(module, "weight", mask)

    @torch.no_grad()
    def choose(self) -> float:
        """The largest |w| of each group; the share of weights whose mark changed."""
        flips = count = 0.0
        for module, mask in zip(self._modules, self.all, strict=True):
            size = full_tensor(_own(module)).abs()
            turn = holds_in_out(module)
            keep = self._pattern.keep((size.T if turn else size).contiguous())
            keep = keep.T if turn else keep
            flips += float((keep != mask.keep).sum())
            count += keep.numel()
            mask.keep.copy_(keep)
        return flips / count

    @torch.no_grad()
    def decay(self, strength: float) -> None:
        """Add strength * w of what is masked to the gradients."""
        for module, mask in zip(self._modules, self.all, strict=True):
            weight = _own(module)
            if weight.grad is not None:
                local(weight.grad).addcmul_(local(weight), shard_like(~mask.keep, weight), value=strength)


def take_off(model: nn.Module, job: Job) -> None:
    """Leave the masked weights in place of the dense ones."""
    for module in map(model.get_submodule, job.targets):
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def _own(module: nn.Module) -> Tensor:
    """The dense weight under the mask."""
    weight: Tensor = module.parametrizations.weight.original  # type: ignore[union-attr, assignment]
    return weight


@dataclass(frozen=True, kw_only=True)
class SrSte(Settings):
    """Masks by |w|, chosen anew every `refresh` steps (1 in the paper); each step's gradient gets decay * w of what is
    masked (eq. 9). No distillation in the paper, so none by default.
    """

    name: ClassVar[str] = "sr-ste"
    needs: ClassVar[Needs] = Needs.TRAINING | Needs.TEACHER
    eta: float = 0.0
    decay: float = 2e-4
    refresh: int = 1

    def decay_at(self, step: int, total: int) -> float:
        """The strength of the decay at a step, from 0."""
        return self.decay

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if job.pattern.unstructured:
            raise UserError(f"{self.name} works in groups: pattern {job.pattern} has none, take n:m")
        changed = outside(model, job.targets)
        masks = Masks(model, job)
        trainer = Trainer(self.name, model, job, self)
        theta, rest = trainer.parameters(job.targets)
        optimizer = torch.optim.AdamW([*theta, *rest], **self.adam, weight_decay=0.0, fused=True)
        figures = {"flips": 0.0, "decay": 0.0}

        def before(step: int, total: int) -> dict[str, float]:
            if step % self.refresh == 0:
                figures["flips"] = masks.choose() if step else 0.0 * masks.choose()
            figures["decay"] = self.decay_at(step, total)
            return figures

        optimizer.register_step_pre_hook(lambda *_: masks.decay(figures["decay"]))
        trainer.run(optimizer, teacher=True, hook=before)
        masks.choose()
        trainer.mark("end")
        return Outcome(trainer.done(lambda whole: take_off(whole, job)), changed=changed, notes=trainer.notes())


@dataclass(frozen=True, kw_only=True)
class Ast(SrSte):
    """AST's sparse training: SR-STE whose decay is annealed in over the first half, with distillation at T = 2.

    Its low-rank side branch is left out, so that what comes out is a plain 2:4 model.
    """

    name: ClassVar[str] = "ast"
    eta: float = 2 / 3
    temperature: float = 2.0
    decay: float = 2e-4
    refresh: int = 10

    def decay_at(self, step: int, total: int) -> float:
        return self.decay * min(1.0, 2 * step / total)
