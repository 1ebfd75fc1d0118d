"""The layerwise least-squares problem's curvature: gathered in one pass, factored once per input."""

from __future__ import annotations

import torch
from torch import Tensor

PANEL = 384
"""Columns per panel. X^T X is symmetric, so of its panels only those on and above the diagonal are computed."""


def gram(x: Tensor, so_far: Tensor | None) -> Tensor:
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


def inverse_factor(hessian: Tensor, damping: float) -> tuple[Tensor, float]:
    """U, upper triangular, with U^T U = (H + damping * mean(diag H) * I)^-1, and the damping it took.

    Reversing the order of rows and columns turns the factor of H into that of its inverse, so one factorization and
    one triangular solve do. Where H is not positive definite the damping grows tenfold until it is.

    Args:
        hessian: [in, in], symmetric, positive diagonal.

    Raises:
        FloatingPointError: H is not finite, or no damping up to 1 helps.
    """
    if not bool(hessian.isfinite().all()):
        raise FloatingPointError("a Hessian is not finite: the activations overflowed")
    mean = hessian.diagonal().mean()
    eye = torch.eye(len(hessian), dtype=hessian.dtype, device=hessian.device)
    while damping <= 1:
        damped = hessian.clone()
        damped.diagonal().add_(damping * mean)
        lower, info = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if int(info) == 0:
            return torch.linalg.solve_triangular(lower.flip(0, 1), eye, upper=True), damping
        damping = damping * 10 if damping else 1e-8
    raise FloatingPointError("a Hessian is not positive definite, whatever the damping")
