"""The layerwise least-squares problem: its curvature gathered in one pass and factored once per input, and the loop over
columns in which what one loses the later ones make up for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from methods.contract import Job, Outcome
from methods.pruning.walk import Visit, Walk

T = TypeVar("T")
PANEL = 384
"""Columns per panel. X^T X is symmetric, so of its panels only those on and above the diagonal are computed."""


def add_gram(x: Tensor, so_far: Tensor | None) -> Tensor:
    """Add x^T x to `so_far`, upper triangle of panels only. x: [tokens, in] -> [in, in]. See `symmetric`."""
    width = x.shape[1]
    total = x.new_zeros(width, width) if so_far is None else so_far
    for a in range(0, width, PANEL):
        b = min(a + PANEL, width)
        total[a:b, a:].addmm_(x[:, a:b].T, x[:, a:])
    return total


def symmetric(gathered: Tensor) -> Tensor:
    """The whole symmetric matrix from the upper triangle."""
    upper = gathered.triu()
    return upper + upper.triu(1).T


def damped(hessian: Tensor, damping: float) -> tuple[Tensor, Tensor, float]:
    """H + damping * mean(diag H) * I, then R, upper triangular, with R R^T equal to that, and the damping it took.

    Where H is not positive definite the damping grows tenfold until it is.

    Args:
        hessian: [in, in], symmetric, positive diagonal.

    Raises:
        FloatingPointError: H is not finite, or no damping up to 1 helps.
    """
    if not bool(hessian.isfinite().all()):
        raise FloatingPointError("a Hessian is not finite: the activations overflowed")
    mean = hessian.diagonal().mean()
    while damping <= 1:
        sum_ = hessian.clone()
        sum_.diagonal().add_(damping * mean)
        lower, info = torch.linalg.cholesky_ex(sum_.flip(0, 1))
        if int(info) == 0:
            return sum_, lower.flip(0, 1), damping
        damping = damping * 10 if damping else 1e-8
    raise FloatingPointError("a Hessian is not positive definite, whatever the damping")


def inverse_factor(hessian: Tensor, damping: float) -> tuple[Tensor, float]:
    """U, upper triangular, with U^T U = (H + damping * mean(diag H) * I)^-1, and the damping it took: see `damped`.

    Reversing the order of rows and columns turns the factor of H into that of its inverse, so one factorization and
    one triangular solve do.
    """
    _, upper, damping = damped(hessian, damping)
    eye = torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
    return torch.linalg.solve_triangular(upper, eye, upper=True), damping


class HessianWalk(Generic[T]):
    """A walk whose visits come with what `prepare` makes of their inputs' Hessian, dead inputs' weights zeroed.

        walk = HessianWalk(model, job, damping, inverse_factor)
        for visit, factor in walk: compensate_(visit.weight, factor, ...)
        return walk.outcome()

    prepare(H, damping) also returns the damping it took; where one had to be raised, the notes say so. H is 2 X^T X over
    the tokens, [in, in], a dead input's diagonal 1.
    """

    def __init__(
        self, model: nn.Module, job: Job, damping: float, prepare: Callable[[Tensor, float], tuple[T, float]]
    ) -> None:
        self._walk, self._damping, self._prepare = Walk(model, job, add_gram), damping, prepare
        self._tokens = job.calibration.numel() if job.calibration is not None else 0
        self._raised: dict[str, float] = {}

    def __iter__(self) -> Iterator[tuple[Visit, T]]:
        shared: Tensor | None = None
        for visit in self._walk:
            if visit.stat is not shared:  # q, k and v have one input, so one Hessian, so one factor
                shared = visit.stat
                hessian = symmetric(shared).mul_(2 / self._tokens)
                dead = hessian.diagonal() == 0
                hessian.diagonal()[dead] = 1
                ready, took = self._prepare(hessian, self._damping)
            visit.weight[:, dead] = 0
            if took != self._damping:
                self._raised[visit.name] = took
            yield visit, ready

    def notes(self) -> dict[str, Any]:
        return {"damping_raised": self._raised} if self._raised else {}

    def outcome(self, **notes: Any) -> Outcome:
        return self._walk.outcome(**self.notes(), **notes)


Settle = Callable[[int, int, Tensor], Callable[[int, Tensor], Tensor]]
"""settle(a, b, w) -> f: called when columns a to b are reached, with these as they are by then, [b-a, out]; f(i, column)
is then what column a+i [out] is settled on."""


def compensate_(weight: Tensor, factor: Tensor, settle: Settle, group: int, block: int) -> Tensor:
    """Settle the columns of weight [out, in] from left to right, each making up for those before; returns float [out, in].

    factor: U, upper triangular [in, in], U^T U = H^-1. e is what is lost of column j over U_jj, and every later column k
    makes up for it with -e * U_jk (SparseGPT's algorithm 1, GPTQ's too). `group` columns are asked about at a time.
    Updates reach to the end of the group at once, of the block after each group, of the rest after each block.
    """
    w = weight.detach().float().T.contiguous()  # [in, out]: a column of W is one run of memory
    width = len(w)
    diagonal = factor.diagonal()
    for start in range(0, width, block):
        end = min(start + block, width)
        e = torch.zeros_like(w[start:end])
        for a in range(start, end, group):
            b = min(a + group, end)
            settled = settle(a, b, w[a:b])
            for j in range(a, b):
                column = settled(j - a, w[j])
                lost = torch.sub(w[j], column, out=e[j - start]).div_(diagonal[j])
                w[j] = column
                w[j + 1 : b].addr_(factor[j, j + 1 : b], lost, alpha=-1)
            w[b:end].addmm_(factor[a:b, b:end].T, e[a - start : b - start], alpha=-1)
        w[end:].addmm_(factor[start:end, end:].T, e, alpha=-1)
    return w.T
