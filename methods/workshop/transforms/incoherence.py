"""Incoherence of a linear: its weight and its Hessian in a basis in which all weights look
Gaussian.

With orthogonal V [in, in] and U [out, out], W becomes U W V^T, and the Hessian H of the inputs
V H V^T. Each is a Hadamard matrix with random signs of its columns, divided by sqrt(width), as in
QuIP# (arXiv 2402.04396). The signs follow from the width and the side alone. So linears with the
same input share V and a factor of the Hessian, and no file needs the signs.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from methods.workshop.transforms.hadamard import hadamard

Side = Literal["in", "out"]
LARGEST_FACTOR = 256
"""Largest order of the Hadamard matrix of an odd factor."""
POWER = 32
"""Largest power of two whose matrix is multiplied at once."""
PIECE = 2**21
"""Number of weights that are turned at a time, to bound the memory of float64."""


def turn_weight(weight: Tensor) -> Tensor:
    """Return U W V^T, float32 [out, in]. weight: W, of any float dtype."""
    return _turn(_turn(weight.float().T, "in").T, "out")


def turn_weight_back(weight: Tensor) -> Tensor:
    """Return U^T W V, float32 [out, in], the inverse of `turn_weight`."""
    return _turn_back(_turn_back(weight.float(), "out").T, "in").T.contiguous()


def turn_hessian(hessian: Tensor) -> Tensor:
    """Return V H V^T, float [in, in]. hessian: H, symmetric."""
    return _turn(_turn(hessian, "in").T, "in")


@cache
def signs(width: int, side: Side) -> Tensor:
    """Return the random signs of a side, float32 [width]: bits of SHAKE-256 of its name."""
    text = f"{side} {width}".encode()
    data = torch.frombuffer(bytearray(hashlib.shake_256(text).digest(width)), dtype=torch.uint8)
    return 1 - 2 * (data & 1).float()


@cache
def factors(width: int) -> tuple[Tensor, ...]:
    """Return Hadamard matrices, float64 [q, q], whose Kronecker product turns a vector of a width.

    The last has the smallest order that is known for an odd factor, up to LARGEST_FACTOR. Without
    one it is left out, and the product is of a power of two, for each of the odd number of parts.
    """
    odd, power = width, 1
    while odd % 2 == 0:
        odd, power = odd // 2, 2 * power
    last: list[Tensor] = []
    for doublings in (1, 2, 4, 8):
        order = odd * doublings
        matrix = hadamard(order) if odd > 1 and order <= LARGEST_FACTOR else None
        if matrix is not None and power % doublings == 0:
            power, last = power // doublings, [matrix]
            break
    first: list[Tensor] = []
    while power > 1:
        order = min(power, POWER)
        matrix = torch.ones(1, 1, dtype=torch.float64)
        while len(matrix) < order:
            matrix = torch.kron(torch.tensor([[1.0, 1], [1, -1]], dtype=torch.float64), matrix)
        power //= order
        first.append(matrix)
    return (*first, *last)


def _turn(x: Tensor, side: Side) -> Tensor:
    """Multiply by the signs, then by the Hadamard matrix, along the first dimension."""
    flips = signs(len(x), side).to(x).unsqueeze(1)
    return _in_pieces(x, lambda piece: _product(piece * flips, is_transposed=False))


def _turn_back(x: Tensor, side: Side) -> Tensor:
    """Invert `_turn`."""
    flips = signs(len(x), side).to(x).unsqueeze(1)
    return _in_pieces(x, lambda piece: _product(piece, is_transposed=True).mul_(flips))


def _in_pieces(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the function of x [width, columns], computed for some columns at a time."""
    pieces = x.split(max(1, PIECE // len(x)), 1)
    return torch.cat([function(piece) for piece in pieces], 1)


def _product(x: Tensor, is_transposed: bool) -> Tensor:
    """Return the product of the orthogonal Hadamard matrix, or its transpose, and x [width,
    columns].

    A sum of numbers of float32 is exact in float64, unless one is 2^-22 times the largest or less.
    So its order does not matter, and all processors give the same product.
    """
    dtype, shape, before, size = x.dtype, x.shape, 1, 1
    for matrix in factors(len(x)):
        matrix = matrix.to(x.device)
        x = x.reshape(before, len(matrix), -1).double()
        x = torch.matmul(matrix.T if is_transposed else matrix, x).to(dtype)
        before, size = before * len(matrix), size * len(matrix)
    return x.reshape(shape).mul(1 / math.sqrt(size))
