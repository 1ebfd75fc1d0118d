"""DSnoT, dynamic sparse no training: swap weights of a mask so that the outputs' expected error shrinks. Zhang et al. 2024,
arXiv 2310.08915.

A refinement: `dsnot:from=wanda`. It works on the weights of the dense model: whatever the stage before did to those it
kept is undone, and its mask alone is taken over, as in the released code, whose SparseGPT start is a mask without update.
The criteria below were read off that code; the paper's equations could not be checked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from methods.contract import Job, Needs, Outcome
from methods.errors import UserError
from methods.pattern import Pattern
from methods.pruning.walk import Walk


def moments(x: Tensor, so_far: Tensor | None) -> Tensor:
    """Sum, and sum of squares, of each input feature. [tokens, in] -> [2, in]"""
    here = torch.stack([x.sum(0), x.square().sum(0)])
    return here if so_far is None else so_far.add_(here)


class Inputs(NamedTuple):
    """What is asked of a linear's inputs, [in] each: the sum over a sequence's tokens, averaged over sequences; the
    variance over all tokens; the L2 norm over all tokens."""

    mean: Tensor
    variance: Tensor
    norm: Tensor

    @classmethod
    def of(cls, stat: Tensor, sequences: int, seqlen: int) -> Inputs:
        mean, square = stat / (sequences * seqlen)
        return cls(mean * seqlen, (square - mean.square()).clamp(min=0), stat[1].sqrt())


class Swapped(NamedTuple):
    keep: Tensor
    """[out, in], as many as before in every group (unstructured, in every row)"""
    before: Tensor
    """The expected error of each output [out], float64."""
    after: Tensor
    swaps: int


def swap(weight: Tensor, keep: Tensor, inputs: Inputs, pattern: Pattern, rule: DSnoT) -> Swapped:
    """Swap a masked weight of each row for a kept one, up to `rule.cycles` times, while that shrinks the row's error.

    A row's error is e = sum over masked j of W_j E[X_j]. Let through next is the masked weight that takes most off |e| by
    W_j E[X_j] / Var[X_j]^power. For it goes, n:m, the least |W_j| ||X_j|| of its group; unstructured, the least of its row
    whose loss takes something off |e|, too. No weight changes sides twice. A row is done when |e| is within the threshold,
    or when its next swap would not shrink |e|. (The released code asks the latter of no swap: unstructured ones may
    overshoot, those of n:m may not change e's sign but may raise it.)

    Args:
        weight: float [out, in]; keep: bool [out, in].
    """
    was, keep = keep, keep.clone()
    share = weight * inputs.mean  # W_j E[X_j]
    error = share.masked_fill(keep, 0).sum(1, dtype=torch.float64)
    before = error.clone()
    size = weight.abs() * inputs.norm
    worth = (share / inputs.variance.clamp(min=torch.finfo(share.dtype).tiny) ** rule.power).masked_fill(keep, 0)
    comes = [_first(-worth * sign, rule.cycles) for sign in (1, -1)]  # [out, cycles], for errors above and below 0
    signs = () if pattern.m else (1, -1)  # in groups the one to go depends on the one that comes
    goes = [_first(size.where(was & (share * sign < 0), torch.inf), rule.cycles) for sign in signs]
    turn = torch.zeros(2, len(weight), dtype=torch.long, device=weight.device)  # how many of each list are used up
    going = torch.ones_like(error, dtype=torch.bool)
    swaps = 0
    for _ in range(rule.cycles):
        above = error > 0
        at = turn[0].where(above, turn[1])[:, None].clamp(max=comes[0].shape[1] - 1)
        new = comes[0].gather(1, at).where(above[:, None], comes[1].gather(1, at))  # [out, 1]
        if pattern.m:
            old = _least_of_group(size.where(was & keep, torch.inf), new, pattern.m)
        else:
            old = goes[0].gather(1, at).where(above[:, None], goes[1].gather(1, at))
        gain, loss = (share.gather(1, i).squeeze(1).double() for i in (new, old))
        after = error - gain + loss
        free = (~(was | keep).gather(1, new) & (was & keep).gather(1, old)).squeeze(1) & (gain * error > 0)
        if pattern.unstructured:
            free &= loss * error < 0
        going &= free & (error.abs() > rule.threshold) & (after.abs() < error.abs())
        if not bool(going.any()):
            break
        rows = going.nonzero().squeeze(1)
        keep[rows, new[rows, 0]] = True
        keep[rows, old[rows, 0]] = False
        error[rows] = after[rows]
        turn[(~above).long()[rows], rows] += 1
        swaps += len(rows)
    return Swapped(keep, before, error, swaps)


def _first(score: Tensor, count: int) -> Tensor:
    """Indices of the `count` lowest of each row, of equals the first. [out, in] -> [out, count]"""
    return score.argsort(dim=1, stable=True)[:, :count]


def _least_of_group(size: Tensor, index: Tensor, m: int) -> Tensor:
    """The least of the group of m that `index` [out, 1] lies in."""
    group = index - index % m + torch.arange(m, device=index.device)  # [out, m]
    return group.gather(1, _first(size.gather(1, group), 1))


@dataclass(frozen=True)
class DSnoT:
    """cycles: swaps a row at most; threshold: the error at which a row is done, of an output summed over a sequence's tokens,
    the released code's unit (so it means less the longer the sequences); power: of the variance. 50, 0.1 and 1 are published.

    part: which linears are refined, "attention" or "all". The released code leaves those of the MLP as they are by default
    (`--skip_layer mlp`), for n:m and unstructured alike.
    """

    name: ClassVar[str] = "dsnot"
    needs: ClassVar[Needs] = Needs.CALIBRATION | Needs.TEACHER
    cycles: int = 50
    threshold: float = 0.1
    power: float = 1.0
    part: Literal["attention", "all"] = "attention"

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if job.prior is None:
            raise UserError("dsnot needs a mask to refine: write dsnot:from=METHOD, for example dsnot:from=wanda")
        self._check()
        dense = job.teacher()
        walk = Walk(dense, replace(job, source=Path(str(dense.name_or_path))), moments)
        swaps, before, after = 0, 0.0, 0.0
        for visit in walk:
            keep = job.prior.masks[visit.name].to(visit.weight.device)
            if self.part == "all" or "attn" in visit.name or "attention" in visit.name:
                assert job.calibration is not None  # the walk has seen to it
                inputs = Inputs.of(visit.stat, *job.calibration.shape)
                done = swap(visit.weight.float(), keep, inputs, job.pattern, self)
                keep, swaps = done.keep, swaps + done.swaps
                before += float(done.before.abs().sum())
                after += float(done.after.abs().sum())
            visit.prune(keep)
        told = {"before": float(f"{before:.6g}"), "after": float(f"{after:.6g}")}
        return walk.outcome(swaps=swaps, expected_error=told)

    def _check(self) -> None:
        if self.cycles < 1:
            raise UserError(f"dsnot:cycles={self.cycles} will not do: a row takes part in 1 swap or more")
        for field, value in (("threshold", self.threshold), ("power", self.power)):
            if not 0 <= value < torch.inf:
                raise UserError(f"dsnot:{field}={value} will not do: it is a number, 0 or more")
