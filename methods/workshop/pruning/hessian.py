"""The least-squares problem of a layer.

Its Hessian is collected in one pass and factored once per input. `compensate_` is the loop of
SparseGPT and GPTQ, in which later columns compensate the error of earlier ones.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from methods.contract.method import Job, Outcome
from methods.workshop.pruning.walk import Visit, Walk

T = TypeVar("T")
PANEL = 384
"""Columns per panel. X^T X is symmetric, so only the panels on and above the diagonal are
computed."""


def add_gram(x: Tensor, total: Tensor | None) -> Tensor:
    """Add x^T x to `total`, upper triangle of panels only. x: [tokens, in] -> [in, in]. See
    `symmetric`."""
    width = x.shape[1]
    if total is None:
        total = x.new_zeros(width, width)
    for a in range(0, width, PANEL):
        b = min(a + PANEL, width)
        total[a:b, a:].addmm_(x[:, a:b].T, x[:, a:])
    return total


def symmetric(triangle: Tensor) -> Tensor:
    """Fill in the lower triangle of a matrix from `add_gram`, in place, and return it."""
    for a in range(0, len(triangle), PANEL):
        b = min(a + PANEL, len(triangle))
        corner = triangle[a:b, a:b].triu()
        triangle[a:b, a:b] = corner + corner.triu(1).T
        triangle[b:, a:b] = triangle[a:b, b:].T
    return triangle


def output_size(weight: Tensor, gram: Tensor) -> Tensor:
    """Return ||X W^T||^2 of a weight [out, in]. For a change of a weight it is the error of the
    output. gram: X^T X, [in, in]."""
    return ((weight @ gram) * weight).sum()


def damped(hessian: Tensor, damping: float) -> tuple[Tensor, float]:
    """Return the damped Hessian A = H + damping * mean(diag H) * I, and the damping used.

    If A is not positive definite the damping is raised tenfold until it is.

    Args:
        hessian: [in, in], symmetric, positive diagonal.

    Raises:
        FloatingPointError: H is not finite, or A is not positive definite with any damping up to 1.
    """
    _, damping = _factor(hessian, damping)
    total = hessian.clone()
    total.diagonal().add_(damping * hessian.diagonal().mean())
    return total, damping


def _factor(hessian: Tensor, damping: float) -> tuple[Tensor, float]:
    """Return R, upper triangular with R R^T = A, and the damping used: see `damped`.

    A Hessian may be the largest tensor in memory, so at most two copies exist at a time.
    """
    if not bool(hessian.isfinite().all()):
        raise FloatingPointError("a Hessian is not finite: activations overflowed")
    mean = hessian.diagonal().mean()
    while damping <= 1:
        reverse = hessian.flip(0, 1)
        reverse.diagonal().add_(damping * mean)
        lower, info = torch.linalg.cholesky_ex(reverse)
        del reverse
        if int(info) == 0:
            return lower.flip(0, 1), damping
        damping = damping * 10 if damping else 1e-8
    raise FloatingPointError("a Hessian is not positive definite with any damping up to 1")


def inverse_factor(hessian: Tensor, damping: float) -> tuple[Tensor, float]:
    """Return U, upper triangular, with U^T U = (H + damping * mean(diag H) * I)^-1, and the damping
    used: see `damped`.

    With rows and columns in reverse order, one factorization and one triangular solve are enough.
    """
    upper, damping = _factor(hessian, damping)
    # column by column, as LAPACK writes
    inverse = torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device).T
    return torch.linalg.solve_triangular(upper, inverse, upper=True, out=inverse), damping


class HessianWalk(Generic[T]):
    """A walk that also yields, for each visit, the result of `prepare` on the Hessian of the
    inputs.

        walk = HessianWalk(model, job, damping, inverse_factor)
        for visit, factor in walk: compensate_(visit.weight, factor, ...)
        return walk.outcome()

    prepare(H, damping) also returns the damping it used, and the notes have every raised damping. H
    is 2 X^T X / tokens, [in, in]. An input that is always 0 gets the mean of the others on the
    diagonal, and its weights are set to 0.
    """

    def __init__(
        self,
        model: nn.Module,
        job: Job,
        damping: float,
        prepare: Callable[[Tensor, float], tuple[T, float]],
    ) -> None:
        self._walk, self._damping, self._prepare = Walk(model, job, add_gram), damping, prepare
        self._tokens = job.calibration.numel() if job.calibration is not None else 0
        self._raised: dict[str, float] = {}
        self._finished: list[tuple[weakref.ref[Tensor], Tensor]] = []

    def __iter__(self) -> Iterator[tuple[Visit, T]]:
        latest: Callable[[], Tensor | None] = lambda: None  # noqa: E731
        prepared: Any = None
        for visit in self._walk:
            stat = visit.stat
            if stat is not latest():  # q, k and v have one input, so one Hessian, so one factor
                latest, prepared = weakref.ref(stat), None  # of another input: its memory is needed
                dead = self._finish_hessian_(stat)
                prepared, damping = self._prepare(stat, self._damping)
            visit = visit._replace(stat=stat.new_empty(0))  # the walk forgets it with its block
            del stat
            visit.weight[:, dead] = 0
            if damping != self._damping:
                self._raised[visit.name] = damping
            yield visit, prepared

    def _finish_hessian_(self, stat: Tensor) -> Tensor:
        """Turn the sum of `add_gram` into the Hessian, in place, once. Return the inputs that are
        always 0: bool [in]."""
        self._finished = [(ref, dead) for ref, dead in self._finished if ref() is not None]
        for ref, dead in self._finished:
            if ref() is stat:
                return dead
        symmetric(stat).mul_(2 / self._tokens)
        dead = stat.diagonal() == 0
        stat.diagonal()[dead] = mean_of_others(stat.diagonal(), dead)
        self._finished.append((weakref.ref(stat), dead))
        return dead

    def notes(self) -> dict[str, Any]:
        if not self._raised:
            return {}
        return {"damping_raised": self._raised}

    def total(self, *values: float) -> list[float]:
        return self._walk.total(*values)

    def outcome(self, **notes: Any) -> Outcome:
        return self._walk.outcome(**self.notes(), **notes)


def mean_of_others(diagonal: Tensor, dead: Tensor) -> Tensor:
    """Return the mean of a diagonal without its dead inputs, or 1 if all are dead.

    So dead inputs do not change the scale of the damping.
    """
    live = diagonal[~dead]
    return live.mean() if len(live) else diagonal.new_ones(())


ColumnQuantizer = Callable[[int, int, Tensor], Callable[[int, Tensor], Tensor]]
"""column_quantizer(a, b, w) -> quantize_column: called before columns a to b, with their current
values w [b-a, out]. quantize_column(i, column) returns the final value of column a+i [out]."""


def compensate_(
    weight: Tensor, factor: Tensor, column_quantizer: ColumnQuantizer, group: int, block: int
) -> Tensor:
    """Return a weight [out, in], pruned or quantized column by column, as float32. Later columns
    compensate the error.

    factor: U, upper triangular [in, in], U^T U = H^-1. With e the error of column j over U_jj,
    every later column k changes by -e * U_jk (algorithm 1 of SparseGPT, and GPTQ).
    `column_quantizer` is called once per `group` of columns. Columns of the same group are updated
    at once, those of the same block after each group, all others after each block.
    """
    w = weight.detach().float().T.contiguous()  # [in, out]: a column of W is one run of memory
    width = len(w)
    diagonal = factor.diagonal()
    for start in range(0, width, block):
        end = min(start + block, width)
        e = torch.zeros_like(w[start:end])
        for a in range(start, end, group):
            b = min(a + group, end)
            quantize_column = column_quantizer(a, b, w[a:b])
            for j in range(a, b):
                column = quantize_column(j - a, w[j])
                error = torch.sub(w[j], column, out=e[j - start]).div_(diagonal[j])
                w[j] = column
                w[j + 1 : b].addr_(factor[j, j + 1 : b], error, alpha=-1)
            w[b:end].addmm_(factor[a:b, b:end].T, e[a - start : b - start], alpha=-1)
        w[end:].addmm_(factor[start:end, end:].T, e, alpha=-1)
    return w.T
