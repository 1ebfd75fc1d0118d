"""DSnoT, dynamic sparse no training: swap weights of a mask so that the expected error of the
outputs shrinks.

Zhang et al. 2024, arXiv 2310.08915. A refinement: `dsnot:from=wanda`. It starts from the mask of
the stage before and the weights of the dense model, as the released code does: changes that the
stage before made to the weights are undone. The criteria are those of the released code, with two
exceptions. With n:m it prunes by the score of the method that made the mask, and here always by
|W_j| ||X_j||. Its variance is the mean of the variances within sequences, and here that over all
tokens. The equations of the paper could not be checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from methods import Cost, Does, Job, MethodInfo, Needs, Outcome, Pattern, UserError, Walk
from methods.contract.info import Variant
from methods.contract.ranges import Count, NonNegative
from methods.contract.rules import SameBlocks
from methods.model.folder import Folder


def moments(x: Tensor, total: Tensor | None) -> Tensor:
    """Add the sum, the sum of squares and the number of values of each input feature to `total`.
    [tokens, in] -> [3, in]

    They are in float64: the variance of an input with a large mean is a small difference of large
    numbers.
    """
    wide = x.double()
    sums = torch.stack([wide.sum(0), wide.square().sum(0), wide.new_full(x.shape[1:], len(x))])
    return sums if total is None else total.add_(sums)


class InputStatistics(NamedTuple):
    """Statistics of a linear's inputs, [in] each: the sum over a sequence's tokens, averaged over
    sequences; the variance over all tokens, of an expert those that reached it; the L2 norm over
    them."""

    mean: Tensor
    variance: Tensor
    norm: Tensor

    @classmethod
    def of(cls, stat: Tensor, sequences: int, seqlen: int) -> InputStatistics:
        mean, square = stat[:2] / int(stat[2, 0])
        variance = (square - mean.square()).clamp(min=0)
        return cls((stat[0] / sequences).float(), variance.float(), stat[1].sqrt().float())


class SwapResult(NamedTuple):
    """The result of `swap_weights`."""

    keep: Tensor
    """[out, in], with as many kept weights as before in each group (unstructured: in each row)"""
    before: Tensor
    """The expected error of each output before, [out], float64."""
    after: Tensor
    swaps: int


def swap_weights(
    weight: Tensor, keep: Tensor, inputs: InputStatistics, pattern: Pattern, rule: DSnoT
) -> SwapResult:
    """Swap a pruned weight of each row with a kept one, up to `rule.cycles` times, while this
    shrinks the row's error.

    The error of a row is e = sum over pruned j of W_j E[X_j]. The weight to restore is the pruned
    one that reduces |e| most by W_j E[X_j] / Var[X_j]^power. The weight to prune is, for n:m, the
    smallest |W_j| ||X_j|| of the same group; unstructured, the smallest of the row that reduces |e|
    too. No weight is swapped twice. Of pairs, which are swapped whole, W_j E[X_j] and its quotient
    add up, and so do the squares of |W_j| ||X_j||. A row is done when |e| is at most the threshold,
    or the next swap would not shrink |e|. (The released code does not check the latter:
    unstructured swaps may overshoot, and n:m swaps may raise |e|, though not change its sign.)

    Args:
        weight: float [out, in]; keep: bool [out, in].
    """
    initial = keep[:, :: pattern.unit]
    keep = initial.clone()
    share = weight * inputs.mean  # W_j E[X_j]
    deviation = inputs.variance.clamp(min=torch.finfo(share.dtype).tiny) ** rule.power
    benefit = pattern.per_unit(share / deviation).masked_fill(keep, 0)
    share = pattern.per_unit(share)
    error = share.masked_fill(keep, 0).sum(1, dtype=torch.float64)
    before = error.clone()
    size = pattern.unit_scores(weight.abs() * inputs.norm)
    # [out, cycles], for errors above and below 0
    restore = [_lowest(-benefit * sign, rule.cycles) for sign in (1, -1)]
    # In groups, the weight to prune depends on the one to restore.
    signs = () if pattern.m else (1, -1)
    prune = [
        _lowest(size.where(initial & (share * sign < 0), torch.inf), rule.cycles) for sign in signs
    ]
    # How many of each list were swapped.
    used = torch.zeros(2, len(weight), dtype=torch.long, device=weight.device)
    active = torch.ones_like(error, dtype=torch.bool)
    swaps = 0
    for _ in range(rule.cycles):
        above = error > 0
        at = used[0].where(above, used[1])[:, None].clamp(max=restore[0].shape[1] - 1)
        new = restore[0].gather(1, at).where(above[:, None], restore[1].gather(1, at))  # [out, 1]
        if pattern.m:
            old = _smallest_of_group(size.where(initial & keep, torch.inf), new, pattern.units[1])
        else:
            old = prune[0].gather(1, at).where(above[:, None], prune[1].gather(1, at))
        gain, loss = (share.gather(1, i).squeeze(1).double() for i in (new, old))
        after = error - gain + loss
        valid = (~(initial | keep).gather(1, new) & (initial & keep).gather(1, old)).squeeze(1) & (
            gain * error > 0
        )
        if pattern.unstructured:
            valid &= loss * error < 0
        active &= valid & (error.abs() > rule.threshold) & (after.abs() < error.abs())
        if not bool(active.any()):
            break
        rows = active.nonzero().squeeze(1)
        keep[rows, new[rows, 0]] = True
        keep[rows, old[rows, 0]] = False
        error[rows] = after[rows]
        used[(~above).long()[rows], rows] += 1
        swaps += len(rows)
    return SwapResult(pattern.per_weight(keep), before, error, swaps)


def _lowest(score: Tensor, count: int) -> Tensor:
    """Return the indices of the `count` lowest of each row, of equal ones the first. [out, in] ->
    [out, count]"""
    return score.argsort(dim=1, stable=True)[:, :count]


def _smallest_of_group(size: Tensor, index: Tensor, m: int) -> Tensor:
    """Return the index of the smallest of the group of m that contains `index` [out, 1]."""
    group = index - index % m + torch.arange(m, device=index.device)  # [out, m]
    return group.gather(1, _lowest(size.gather(1, group), 1))


def restored(model: nn.Module, dense: nn.Module, job: Job, source: Path) -> frozenset[str]:
    """Return the names outside the targets in which a model differs from the dense one. source: the
    dense model's folder."""
    names = {name for name, _ in model.named_parameters()} - {f"{t}.weight" for t in job.targets}
    old: Callable[[str], Tensor] = model.get_parameter
    new: Callable[[str], Tensor] = dense.get_parameter
    if any(p.is_meta for p in model.parameters()):
        # Blocks of streamed models are on disk.
        old, new = Folder(job.source).tensor, Folder(source).tensor
    stored = job.compute.stored
    return frozenset(
        name for name in names if not torch.equal(old(name).to(stored), new(name).to(stored))
    )


@dataclass(frozen=True)
class DSnoT:
    """Swap kept and pruned weights of a mask to shrink the expected error.

    cycles: largest number of swaps per row; threshold: the error at which a row is done, of an
    output summed over a sequence's tokens as in the released code (so with longer sequences it is
    stricter); power: exponent of the variance. The defaults are published.

    part: the linears to refine, "attention" or "all". The released code skips those of the MLP by
    default (`--skip_layer mlp`), for n:m and unstructured patterns.
    """

    name: ClassVar[str] = "dsnot"
    needs: ClassVar[Needs] = Needs.CALIBRATION | Needs.TEACHER
    shares_calibration: ClassVar[bool] = True
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2310.08915",
        does=Does.PRUNES | Does.REFINES,
        rules=(SameBlocks(),),
        cost=Cost(passes=3, also="a second, dense model in memory"),
        variant=Variant("linears of the attention only", unless="part"),
    )
    cycles: Count = 50
    threshold: NonNegative = 0.1
    power: NonNegative = 1.0
    part: Literal["attention", "all"] = "attention"

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if job.prior is None:
            raise UserError(
                "dsnot needs a mask to refine: use dsnot:from=METHOD, for example dsnot:from=wanda"
            )
        job.prior.require(job.pattern, self.name)
        dense = job.teacher()
        source = Path(str(dense.name_or_path))
        changed = restored(model, dense, job, source)
        walk = Walk(dense, replace(job, source=source), moments)
        swaps, before, after = 0.0, 0.0, 0.0
        for visit in walk:
            keep = job.prior.masks[visit.name].to(visit.weight.device)
            is_refined = self.part == "all" or "attn" in visit.name or "attention" in visit.name
            if is_refined and visit.name not in walk.by_weights_alone:
                assert job.calibration is not None  # checked by the walk
                inputs = InputStatistics.of(visit.stat, *job.calibration.shape)
                result = swap_weights(visit.weight.float(), keep, inputs, job.pattern, self)
                keep, swaps = result.keep, swaps + result.swaps
                before += float(result.before.abs().sum())
                after += float(result.after.abs().sum())
            visit.prune(keep)
        swaps, before, after = walk.total(swaps, before, after)
        error = {"before": float(f"{before:.6g}"), "after": float(f"{after:.6g}")}
        return walk.outcome(swaps=int(swaps), expected_error=error)._replace(changed=changed)
