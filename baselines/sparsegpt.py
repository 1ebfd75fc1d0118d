"""SparseGPT: prune, then let the weights that stay make up for it. Frantar & Alistarh 2023, arXiv 2301.00774."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor, nn

from methods.contract import Job, Needs, Outcome
from methods.errors import UserError
from methods.folder import Folder
from methods.pattern import Pattern
from methods.pruning.hessian import HessianWalk, compensate_, inverse_factor
from methods.pruning.walk import Walk


def prune_(weight: Tensor, factor: Tensor, pattern: Pattern, block: int) -> None:
    """Algorithm 1, in place, on weight [out, in].

    factor: see `compensate_`. The mask of a group is chosen when its first column is reached, on the weights as they are
    by then: score w_j^2 / U_jj^2 (eq. 4).
    """
    diagonal = factor.diagonal()

    def settle(a: int, b: int, w: Tensor) -> Callable[[int, Tensor], Tensor]:
        score = (w / diagonal[a:b, None]).square_()
        keep = _share(pattern, a, b, len(weight)).keep(score.T).T  # [group, out]
        return lambda i, column: column.where(keep[i], 0)

    weight.copy_(compensate_(weight, factor, settle, pattern.m or block, block))


def _share(pattern: Pattern, a: int, b: int, rows: int) -> Pattern:
    """What columns a to b bear of an unstructured pattern, so that the zeros of all are right up to b.

    Were each block rounded by itself, the errors of many small ones would add up and break the pattern.
    """
    if pattern.m:
        return pattern
    zeros = round(rows * b * pattern.sparsity) - round(rows * a * pattern.sparsity)
    return replace(pattern, sparsity=zeros / (rows * (b - a)))


def mask_(model: nn.Module, job: Job, masks: dict[str, Tensor]) -> Walk:
    """Put the weights of the job's source back, under `masks` (bool [out, in] per target); the walk that did it.

    A second walk, so that a model larger than memory takes it, too, and its errors are those of the masked weights.
    """
    source = Folder(job.source)
    for name in job.targets:
        stored: Tensor = model.get_submodule(name).weight  # type: ignore[assignment]
        if not stored.is_meta:
            stored.copy_(source.tensor(f"{name}.weight"))
    walk = Walk(model, job, lambda x, _: x[:0])  # nothing is gathered, but inputs are sampled
    for visit in walk:
        visit.prune(masks[visit.name].to(visit.weight.device))
    return walk


@dataclass(frozen=True)
class SparseGPT:
    """damping: fraction of H's mean diagonal added to it; block: columns between updates of the rest; mask_only: keep the
    mask, and the weights as they were (all blocks are pruned and made up for first, so it is SparseGPT's mask throughout;
    half as long again, and in a streamed run twice the disk).
    """

    name: ClassVar[str] = "sparsegpt"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    damping: float = 0.01
    block: int = 128
    mask_only: bool = False

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if not 0 <= self.damping <= 1:
            raise UserError(f"sparsegpt:damping={self.damping} will not do: it is a fraction, from 0 to 1")
        if self.block < 1 or not job.pattern.fits(self.block):
            raise UserError(
                f"sparsegpt:block={self.block} cannot hold whole groups of {job.pattern}: "
                f"take a multiple of {job.pattern.m or 1}"
            )
        masks: dict[str, Tensor] = {}
        walk = HessianWalk(model, self._own(job), self.damping, inverse_factor)
        for visit, factor in walk:
            prune_(visit.weight, factor, job.pattern, self.block)
            if self.mask_only:
                masks[visit.name] = (visit.weight != 0).cpu()
        return mask_(model, job, masks).outcome(**walk.notes()) if self.mask_only else walk.outcome()

    def _own(self, job: Job) -> Job:
        """What is streamed to disk on the way to a mask is not the result."""
        return replace(job, workdir=job.workdir / "moved") if self.mask_only else job
