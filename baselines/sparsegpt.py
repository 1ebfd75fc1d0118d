"""SparseGPT: prune, then let the weights that stay make up for it. Frantar & Alistarh 2023, arXiv 2301.00774."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from methods.blocks import Walk
from methods.contract import Job, Needs, Outcome
from methods.errors import UserError
from methods.hessian import gram, inverse_factor, symmetric
from methods.pattern import Pattern


def prune_(weight: Tensor, factor: Tensor, pattern: Pattern, block: int) -> None:
    """Algorithm 1, in place, on weight [out, in].

    factor: U, upper triangular [in, in], U^T U = H^-1. Columns are worked through from left to right; e is what is
    lost of column j over U_jj, and every later column k makes up for it with -e * U_jk. The mask of a group is chosen
    when its first column is reached, on the weights as they are by then: score w_j^2 / U_jj^2 (eq. 4).
    Updates reach to the end of the group at once, of the block after each group, of the rest after each block.
    """
    w = weight.detach().float().T.contiguous()  # [in, out]: a column of W is one run of memory
    width = len(w)
    group = pattern.m or block
    diagonal = factor.diagonal()
    for start in range(0, width, block):
        end = min(start + block, width)
        e = torch.zeros_like(w[start:end])
        for a in range(start, end, group):
            b = min(a + group, end)
            score = (w[a:b] / diagonal[a:b, None]).square_()
            keep = _share(pattern, a, b, w.shape[1]).keep(score.T).T  # [group, out]
            for j in range(a, b):
                kept = w[j].where(keep[j - a], 0)
                lost = torch.sub(w[j], kept, out=e[j - start]).div_(diagonal[j])
                w[j] = kept
                w[j + 1 : b].addr_(factor[j, j + 1 : b], lost, alpha=-1)
            w[b:end].addmm_(factor[a:b, b:end].T, e[a - start : b - start], alpha=-1)
        w[end:].addmm_(factor[start:end, end:].T, e, alpha=-1)
    weight.copy_(w.T)


def _share(pattern: Pattern, a: int, b: int, rows: int) -> Pattern:
    """What columns a to b bear of an unstructured pattern, so that the zeros of all are right up to b.

    Were each block rounded by itself, the errors of many small ones would add up and break the pattern.
    """
    if pattern.m:
        return pattern
    zeros = round(rows * b * pattern.sparsity) - round(rows * a * pattern.sparsity)
    return replace(pattern, sparsity=zeros / (rows * (b - a)))


@dataclass(frozen=True)
class SparseGPT:
    """damping: fraction of H's mean diagonal added to it; block: columns between updates of the rest."""

    name: ClassVar[str] = "sparsegpt"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    damping: float = 0.01
    block: int = 128

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if not 0 <= self.damping <= 1:
            raise UserError(f"sparsegpt:damping={self.damping} will not do: it is a fraction, from 0 to 1")
        if self.block < 1 or not job.pattern.fits(self.block):
            raise UserError(
                f"sparsegpt:block={self.block} cannot hold whole groups of {job.pattern}: "
                f"take a multiple of {job.pattern.m or 1}"
            )
        walk = Walk(model, job, gram)
        raised: dict[str, float] = {}
        shared: Tensor | None = None
        for visit in walk:
            if visit.stat is not shared:  # q, k and v have one input, so one Hessian, so one factor
                shared = visit.stat
                hessian = symmetric(shared).mul_(2 / job.calibration.numel())  # type: ignore[union-attr]
                dead = hessian.diagonal() == 0
                hessian.diagonal()[dead] = 1
                factor, damping = inverse_factor(hessian, self.damping)
            visit.weight[:, dead] = 0
            if damping != self.damping:
                raised[visit.name] = damping
            prune_(visit.weight, factor, job.pattern, self.block)
        notes: dict[str, Any] = {"damping_raised": raised} if raised else {}
        return walk.outcome(**notes)
