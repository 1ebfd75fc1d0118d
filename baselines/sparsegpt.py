"""SparseGPT: prune column by column; kept weights compensate the error. Frantar & Alistarh 2023,
arXiv 2301.00774."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from methods import Cost, HessianWalk, Job, MethodInfo, Needs, Outcome, Pattern, Walk
from methods.contract.ranges import Count, Fraction
from methods.contract.rules import WholeGroups
from methods.model.folder import Folder
from methods.workshop.pruning.hessian import compensate_, inverse_factor


def prune_(weight: Tensor, factor: Tensor, pattern: Pattern, block: int) -> Tensor:
    """Algorithm 1, in place, on weight [out, in]. Returns the mask: bool, like weight.

    factor: see `compensate_`. The mask of a group is chosen when its first column is reached, by
    the current weights, with score |w_j| / U_jj, the root of eq. 4.
    """
    diagonal = factor.diagonal()
    mask = torch.empty_like(weight.T, dtype=torch.bool)  # [in, out]

    def column_pruner(a: int, b: int, w: Tensor) -> Callable[[int, Tensor], Tensor]:
        score = (w / diagonal[a:b, None]).abs_()
        keep = _columns_pattern(pattern, a, b, len(weight)).keep(score.T).T  # [group, out]
        mask[a:b] = keep
        return lambda i, column: column.where(keep[i], 0)

    weight.copy_(compensate_(weight, factor, column_pruner, pattern.m or block, block))
    return mask.T


def _columns_pattern(pattern: Pattern, a: int, b: int, rows: int) -> Pattern:
    """Return the share of an unstructured pattern for columns a to b, so that the number of zeros
    up to b is right.

    If each block were rounded separately, the rounding errors of many small blocks would add up.
    """
    if pattern.m:
        return pattern
    zeros = round(rows * b * pattern.sparsity) - round(rows * a * pattern.sparsity)
    return replace(pattern, sparsity=zeros / (rows * (b - a)))


def apply_masks_(model: nn.Module, job: Job, masks: dict[str, Tensor]) -> Walk:
    """Set the targets to the weights of the job's source under `masks` (bool [out, in] per target).
    Returns the walk.

    A second walk, so that it works for a model larger than memory, and the errors are those of the
    masked weights.
    """
    source = Folder(job.source)
    for name in job.targets:
        stored: Tensor = model.get_submodule(name).weight  # type: ignore[assignment]
        if not stored.is_meta:
            stored.copy_(source.tensor(f"{name}.weight"))
    walk = Walk(model, job, lambda x, _: x[:0])  # no statistic, but inputs are sampled
    for visit in walk:
        visit.prune(masks[visit.name].to(visit.weight.device))
    return walk


@dataclass(frozen=True)
class SparseGPT:
    """Prune column by column; kept weights compensate the error.

    damping: share of H's mean diagonal that is added to the diagonal; block: columns between
    updates of all later ones;
    mask_only: use the mask on the original weights. (The mask is that of the whole algorithm; this
    takes half as long again, and in a streamed run twice the disk space.)
    """

    name: ClassVar[str] = "sparsegpt"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    shares_calibration: ClassVar[bool] = True
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2301.00774",
        presets={"mask-only": {"mask_only": True}},
        cost=Cost(passes=2, hessians=1, launches=7),
        rules=(WholeGroups("block"),),
    )
    damping: Fraction = 0.01
    block: Count = 128
    mask_only: bool = False

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        job.pattern.require_whole_groups(self.block, f"{self.name}:block")
        masks: dict[str, Tensor] = {}
        # with mask_only, the weights that the first walk streams to disk are not the result
        first = replace(job, workdir=job.workdir / "moved") if self.mask_only else job
        walk = HessianWalk(model, first, self.damping, inverse_factor)
        for visit, factor in walk:
            keep = prune_(visit.weight, factor, job.pattern, self.block)
            if self.mask_only:
                masks[visit.name] = keep.cpu()
        if self.mask_only:
            return apply_masks_(model, job, masks).outcome(**walk.notes())
        return walk.outcome()
