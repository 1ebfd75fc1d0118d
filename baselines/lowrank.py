"""Sparse and low-rank: a low-rank term beside pruned weights, from the error of pruning.

After SLiM (Mozaffari et al. 2024), arXiv 2410.09615, OATS (Zhang & Papyan 2024), arXiv 2409.13652,
and 3BASiL (Makni et al., NeurIPS 2025).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from baselines.alps import LayerProblem, make_problem, refine
from methods import Cost, Does, Job, MethodInfo, Needs, Outcome, Pattern, UserError, Walk
from methods.contract.info import Adds
from methods.contract.ranges import CountOrZero, Fraction, Share
from methods.contract.rules import SameBlocks
from methods.model.folder import Folder
from methods.model.low_rank_adapter import SCALE_BITS, Term, group_of
from methods.model.targets import dense_weight
from methods.model.terms import attach
from methods.workshop.pruning.hessian import (
    add_gram,
    damped,
    mean_of_others,
    output_size,
    symmetric,
)
from methods.workshop.quantizing.grids import Integer, round_

Svd = Literal["whitened", "diagonal", "plain"]
BITS = {"int8": 8, "int4": 4}
CHECK_EVERY, RHO = 10, 0.1
"""Iterations of `joint` between two changes of the penalty, and the penalty at first, for inputs of
norm 1."""
RHO_GROWTH = ((0.1, 1.1), (0.005, 1.05), (0.0, 1.02))
"""(share, factor): the penalty is multiplied by the factor if more than this share of the kept
weights has changed."""


def root_of(moment: Tensor, svd: Svd, damping: float) -> Tensor:
    """Return R, lower triangular [in, in], with R R^T = H + damping * mean(diag H) * I, of the
    second moment H [in, in].

    svd: "diagonal" for the root of the diagonal alone, and "plain" for the identity.
    """
    if svd == "plain":
        return torch.eye(len(moment), device=moment.device, dtype=moment.dtype)
    if svd == "diagonal":
        diagonal = moment.diagonal()
        return (diagonal + damping * diagonal.mean()).sqrt().diag()
    total, _ = damped(moment, damping)
    root: Tensor = torch.linalg.cholesky(total)
    return root


def low_rank(error: Tensor, root: Tensor, rank: int) -> Term:
    """Return the term B A of a rank with the smallest ||(error - B A) R||. error: [out, in]; root:
    R, see `root_of`.

    By Eckart and Young it is the truncated SVD of error R, times R^-1.
    """
    u, sizes, v = torch.linalg.svd(error @ root, full_matrices=False)
    sizes = sizes[:rank].sqrt()
    a = torch.linalg.solve_triangular(root, sizes[:, None] * v[:rank], upper=False, left=False)
    return Term(u[:, :rank] * sizes, a)


def joint(
    start: Tensor, keep: Tensor, problem: LayerProblem, pattern: Pattern, rank: int, iterations: int
) -> Tensor:
    """Return sparse weights that were chosen together with a low-rank term L, by ADMM with three
    blocks.

    B minimises ||(W0 - L - B) R||^2 + rho ||B - D + U||^2, D is B + U under the mask of its
    largest, U += B - D, and L is moved towards the best term for W0 - B by a step of subspace
    iteration. The mask that does not change any more is kept, and its weights are refined by
    conjugate gradients.

    Args:
        start: W0, float32 [out, in], scaled as the problem; keep: the first mask.
    """
    roots = problem.values.sqrt().to(start.dtype)
    root, inverse_root = problem.vectors * roots, (problem.vectors / roots).T
    basis = torch.linalg.svd((start - start.where(keep, 0)) @ root, full_matrices=False)[2][:rank].T
    sparse, dual, term, rho = (
        start.where(keep, 0),
        torch.zeros_like(start),
        torch.zeros_like(start),
        RHO,
    )
    inverse, before = problem.inverse(rho), keep
    for done in range(1, iterations + 1):
        goal = start - term
        pulled = (sparse - dual - goal).mm(inverse).mul_(rho).add_(goal)
        keep = pattern.keep((pulled + dual).abs())
        sparse = (pulled + dual).where(keep, 0)
        dual = dual + pulled - sparse
        error = (start - pulled) @ root
        basis = torch.linalg.qr(error.T @ torch.linalg.qr(error @ basis)[0])[0]
        term = error @ basis @ (basis.T @ inverse_root)
        if done % CHECK_EVERY == 0:
            changed = float((keep != before).sum() / keep.sum())
            growth = next((by for share, by in RHO_GROWTH if changed > share), None)
            if growth is None:
                break
            rho, dual, before = rho * growth, dual / growth, keep
            inverse = problem.inverse(rho)
    return refine(sparse, keep, start - term, problem.hessian, steps=10)


def rank_for(rank: int | str, shape: torch.Size, bits: float = 1.0) -> int:
    """Return the rank of a linear's term.

    rank: that number, or the share of the dense bytes that its factors may take; bits: of a value
    of a factor, as a share of those of a dense weight.
    """
    rows, columns = shape
    if isinstance(rank, str):
        rank = int(float(rank.removesuffix("%")) / 100 * rows * columns / (rows + columns) / bits)
    return min(rank, rows, columns)


def rounded(term: Term, bits: int) -> Term:
    """Return a term whose factors are rounded to integers, with a scale for each group of values of
    a component."""
    b, a = term.b.clone(), term.a.clone()
    for factor in (b.T, a):
        round_(factor, Integer(bits), group_of(factor.shape[1]))
    return Term(b, a, bits)


def dense_weights(job: Job) -> Callable[[str], Tensor]:
    """Return a function from a target to its weight in the dense model, [out, in]."""
    teacher = job.teacher()
    if any(p.is_meta for p in teacher.parameters()):
        stored = Folder(Path(str(teacher.name_or_path)))
        return lambda target: stored.weight(target).to(job.compute.dtype)  # as the model is loaded
    return lambda target: dense_weight(teacher.get_submodule(target))


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """Add a low-rank term to each pruned linear that makes up for most of what pruning changed.

    rank: rank of each term, or the share of the linear's dense bytes that it may take, such as 10%.
    svd: the error is weighted by the second moment of the inputs ("whitened"), by its diagonal, or
    not at all ("plain").
    rounds: number of rounds, in which mask and weights are chosen again from what the term leaves,
    then the term; joint: largest number of ADMM iterations, in which mask, weights and term are
    chosen together. factors: integers that the factors are rounded to, int8 or int4; empty: they
    keep the format of the weights. damping: share of the mean diagonal that is added to the
    diagonal.
    """

    name: ClassVar[str] = "lowrank"
    needs: ClassVar[Needs] = Needs.CALIBRATION | Needs.TEACHER
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2410.09615",
        does=Does.ADDS,
        adds=Adds("rank", rounded="factors"),
        after="sparsegpt",
        rules=(SameBlocks(),),
        presets={"oats": {"svd": "diagonal", "rounds": 80}, "3basil": {"joint": 300}},
        cost=Cost(
            passes=2,
            hessians=1,
            also="a second, dense model in memory, and an SVD of each linear in each round",
        ),
    )
    rank: CountOrZero | Share = 16
    svd: Svd = "whitened"
    rounds: CountOrZero = 0
    joint: CountOrZero = 0
    factors: Literal["int8", "int4"] | None = None
    damping: Fraction = 0.01

    def __post_init__(self) -> None:
        if self.joint and (self.rounds or self.svd != "whitened"):
            raise ValueError(
                "joint chooses the mask and weights the error itself: leave rounds and svd out"
            )

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if job.prior is None:
            raise UserError(
                "lowrank needs a pruned model: use lowrank:from=METHOD, for example "
                "lowrank:from=wanda"
            )
        if not (self.rounds or self.joint):  # these choose the mask
            job.prior.require(job.pattern, self.name)
        wanted = {
            t: self._rank_of(t, dense_weight(model.get_submodule(t)).shape, job)
            for t in job.targets
        }
        dense, ranks, errors = dense_weights(job), dict[str, int](), dict[str, float]()
        walk = Walk(model, job, add_gram)
        moment = root = live = torch.empty(0)
        problem: LayerProblem | None = None
        for visit in walk:
            if visit.stat is not moment:  # q, k and v have one input
                moment = symmetric(visit.stat)
                regular = _regular(moment)
                root = root_of(regular, self.svd, self.damping)
                problem = make_problem(regular, self.damping)[0] if self.joint else None
                live = moment.diagonal() != 0
            # Weights of an input that is always 0 become 0, as in SparseGPT. So no rank is spent on
            # them.
            goal = dense(visit.name).to(visit.weight.device, torch.float32).masked_fill(~live, 0)
            keep = job.prior.masks[visit.name].to(visit.weight.device) & live
            visit.prune(keep)
            rank = wanted[visit.name]
            for _ in range(self.rounds if rank else 0):
                left = goal - torch.mm(*low_rank(goal - visit.weight.float(), root, rank)[:2])
                visit.weight.copy_(left)
                visit.prune(job.pattern.keep(left.abs() * moment.diagonal().sqrt()))
            if problem and rank:
                sparse = joint(goal * problem.norm, keep, problem, job.pattern, rank, self.joint)
                visit.weight.copy_(sparse / problem.norm)
                visit.prune(sparse != 0)
            error = goal - visit.weight.float()
            if rank:
                term = low_rank(error, root, rank)
                if self.factors:
                    term = rounded(term, BITS[self.factors])
                term = term.to(goal.device, job.compute.stored)
                # Now, so that later blocks see its outputs.
                attach(model.get_submodule(visit.name), term)
                ranks[visit.name] = rank
                error = error - term.b.float() @ term.a.float()
            sizes = float(output_size(error, moment)), float(output_size(goal, moment))
            errors[visit.name] = sizes[0] / max(sizes[1], torch.finfo(torch.float32).tiny)
        walk.errors |= errors
        outcome = walk.outcome(ranks=ranks)
        assert job.calibration is not None
        inputs = {"reconstruction_inputs": f"{job.calibration.numel()} calibration tokens"}
        return outcome._replace(notes={**outcome.notes, **inputs})

    def _rank_of(self, target: str, shape: torch.Size, job: Job) -> int:
        """Return the rank of a target's term. Raise UserError if the share is not zero, and too
        small for rank 1."""
        rank = rank_for(self.rank, shape, self._share_of_bits(shape, job.compute.stored))
        if not rank and isinstance(self.rank, str) and float(self.rank.removesuffix("%")):
            raise UserError(
                f"lowrank:rank={self.rank} is too small for rank 1 in {target}: use a larger "
                "share, or rank=1"
            )
        return rank

    def _share_of_bits(self, shape: torch.Size, stored: torch.dtype) -> float:
        """Return the bits of a factor's value, with its part of a scale, as a share of those of a
        dense weight."""
        if self.factors is None:
            return 1.0
        scales = sum(size * SCALE_BITS / group_of(size) for size in shape) / sum(shape)
        return (BITS[self.factors] + scales) / (8 * stored.itemsize)


def _regular(moment: Tensor) -> Tensor:
    """Return a second moment with the mean of the others on the diagonal for inputs that are always
    0."""
    diagonal = moment.diagonal()
    dead = diagonal == 0
    return moment + (dead.to(moment.dtype) * mean_of_others(diagonal, dead)).diag()
