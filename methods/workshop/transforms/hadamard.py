"""Hadamard matrices, and random orthogonal matrices where none is known."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def random_rotation(width: int, generator: torch.Generator) -> Tensor:
    """Return a random orthogonal matrix, float64 [width, width].

    It is a Hadamard matrix with random signs of its rows, as in QuaRot (arXiv 2404.00456), where
    `hadamard` has one; else the Q of a Gaussian matrix.
    """
    matrix = hadamard(width)
    if matrix is None:
        matrix, r = torch.linalg.qr(
            torch.randn(width, width, generator=generator, dtype=torch.float64)
        )
        return torch.mul(matrix, r.diagonal().sign())
    signs = torch.randint(2, (width, 1), generator=generator) * 2 - 1
    return signs * matrix / math.sqrt(width)


def fix_mean(rotation: Tensor) -> Tensor:
    """Return an orthogonal matrix [width + 1, width + 1] that keeps the mean of a vector. rotation:
    float64 [width, width].

    It rotates what is orthogonal to the vector of ones, so that LayerNorm of a rotated vector is
    the rotated LayerNorm.
    """
    width = len(rotation) + 1
    ones = rotation.new_full((width,), 1 / math.sqrt(width))
    axis = -ones
    axis[0] += 1
    # the reflection that exchanges the first axis and the direction of the ones
    reflection = torch.eye(width).to(rotation) - 2 * torch.outer(axis, axis) / axis.dot(axis)
    inner: Tensor = torch.block_diag(rotation.new_ones(1, 1), rotation)
    return reflection @ inner @ reflection


def hadamard(width: int) -> Tensor | None:
    """Return a matrix of +1 and -1 with orthogonal rows, float64 [width, width], or None.

    Known are 2^k times 1 and the orders of Paley's two constructions for a prime: q + 1 with q = 3
    mod 4, and 2 (q + 1) with q = 1 mod 4.
    """
    odd, doublings = width, 0
    while True:
        base = torch.ones(1, 1, dtype=torch.float64) if odd == 1 else _paley(odd)
        if base is not None:
            for _ in range(doublings):
                base = torch.cat([torch.cat([base, base], 1), torch.cat([base, -base], 1)])
            return base
        if odd % 2:
            return None
        odd, doublings = odd // 2, doublings + 1


def _paley(order: int) -> Tensor | None:
    """Return the Hadamard matrix of an order by one of Paley's constructions, or None."""
    if order % 4:
        return None
    q = order - 1
    if _is_prime(q):
        skew = _bordered(q, -1)
        return torch.eye(order, dtype=torch.float64) + skew
    q = order // 2 - 1
    if _is_prime(q) and q % 4 == 1:
        conference = _bordered(q, 1)
        eye = torch.eye(order // 2, dtype=torch.float64)
        two = torch.tensor([[1, 1], [1, -1]], dtype=torch.float64)
        one = torch.tensor([[1, -1], [-1, -1]], dtype=torch.float64)
        return torch.kron(conference, two) + torch.kron(eye, one)
    return None


def _bordered(q: int, sign: int) -> Tensor:
    """Return the conference matrix of a prime q, [q + 1, q + 1]: the characters of all differences,
    with a border."""
    squares = {i * i % q for i in range(1, q)}
    character = torch.tensor(
        [0, *(1 if i in squares else -1 for i in range(1, q))], dtype=torch.float64
    )
    index = torch.arange(q)
    out = torch.zeros(q + 1, q + 1, dtype=torch.float64)
    out[0, 1:], out[1:, 0] = 1, sign
    out[1:, 1:] = character[(index[:, None] - index) % q]
    return out


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % i for i in range(2, math.isqrt(number) + 1))
