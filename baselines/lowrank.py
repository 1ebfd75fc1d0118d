"""Sparse and low-rank: a low-rank term beside pruned weights, from the error of pruning.

After SLiM (Mozaffari et al. 2024), arXiv 2410.09615, and OATS (Zhang & Papyan 2024), arXiv 2409.13652.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from methods import Cost, Job, MethodInfo, Needs, Outcome, UserError, Walk
from methods.adapter import Term, attach
from methods.folder import Folder
from methods.pruning.hessian import add_gram, damped, symmetric
from methods.ranges import CountOrZero, Fraction, Share
from methods.targets import dense_weight

Svd = Literal["whitened", "diagonal", "plain"]


def root_of(moment: Tensor, svd: Svd, damping: float) -> Tensor:
    """Return R, lower triangular [in, in], with R R^T = H + damping * mean(diag H) * I, of the second moment H [in, in].

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
    """Return the term B A of a rank with the smallest ||(error - B A) R||. error: [out, in]; root: R, see `root_of`.

    By Eckart and Young it is the truncated SVD of error R, times R^-1.
    """
    u, sizes, v = torch.linalg.svd(error @ root, full_matrices=False)
    sizes = sizes[:rank].sqrt()
    a = torch.linalg.solve_triangular(root, sizes[:, None] * v[:rank], upper=False, left=False)
    return Term(u[:, :rank] * sizes, a)


def rank_for(rank: int | str, shape: torch.Size) -> int:
    """Return the rank of a linear's term. rank: that number, or the share of the dense bytes that its factors may take."""
    rows, columns = shape
    if isinstance(rank, str):
        rank = int(float(rank.removesuffix("%")) / 100 * rows * columns / (rows + columns))
    return min(rank, rows, columns)


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

    rank: of each term, or its budget: the share of the linear's dense bytes that its factors may take, such as 10%.
    svd: the error is weighted by the second moment of the inputs ("whitened"), by its diagonal, or not at all ("plain").
    rounds: of alternation, in which mask and weights are chosen again from what the term leaves, then the term; damping:
    share of the mean diagonal that is added to the diagonal.
    """

    name: ClassVar[str] = "lowrank"
    needs: ClassVar[Needs] = Needs.CALIBRATION | Needs.TEACHER
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2410.09615",
        prior="sparsegpt",
        same_blocks=True,
        adds="rank",
        cost=Cost(
            passes=2, hessians=1, also="a second, dense model in memory, and an SVD of each linear in each round"
        ),
    )
    rank: CountOrZero | Share = 16
    svd: Svd = "whitened"
    rounds: CountOrZero = 0
    damping: Fraction = 0.01

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if job.prior is None:
            raise UserError("lowrank needs a pruned model: use lowrank:from=METHOD, for example lowrank:from=wanda")
        dense, terms, errors, hooks = dense_weights(job), dict[str, Term](), dict[str, float](), []
        walk = Walk(model, job, add_gram)
        moment = root = torch.empty(0)
        for visit in walk:
            if visit.stat is not moment:  # q, k and v have one input
                moment = symmetric(visit.stat)
                root = root_of(moment, self.svd, self.damping)
            goal = dense(visit.name).to(visit.weight.device, torch.float32)
            visit.prune(job.prior.masks[visit.name].to(visit.weight.device))
            error = goal - visit.weight.float()
            if rank := rank_for(self.rank, goal.shape):
                for _ in range(self.rounds):
                    b, a = low_rank(error, root, rank)
                    left = goal - b @ a
                    visit.weight.copy_(left)
                    visit.prune(job.pattern.keep(left.square() * moment.diagonal()))
                    error = goal - visit.weight.float()
                term = low_rank(error, root, rank).to(goal.device, job.compute.stored)
                hooks.append(attach(model.get_submodule(visit.name), term))  # so that later blocks see its outputs
                terms[visit.name] = term
                error = error - term.b.float() @ term.a.float()
            errors[visit.name] = _size(error, moment) / max(_size(goal, moment), torch.finfo(torch.float32).tiny)
        for hook in hooks:
            hook.remove()
        walk.errors |= errors
        outcome = walk.outcome(ranks={name: len(term.a) for name, term in terms.items()})
        assert job.calibration is not None
        inputs = {"reconstruction_inputs": f"{job.calibration.numel()} calibration tokens"}
        return outcome._replace(terms=terms, notes={**outcome.notes, **inputs})


def _size(weight: Tensor, moment: Tensor) -> float:
    """Return ||X W^T||^2 for inputs X with a second moment."""
    return float(((weight @ moment) * weight).sum())
