"""Rotations that gather importance before pruning. Gu et al. 2025 (DenoiseRotator), arXiv
2505.23049."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.workshop.transforms.changes import Rotation
from methods.workshop.transforms.hadamard import fix_mean

RESIDUAL, VALUES = "residual", "values"
"""Names of the vectors that a linear reads or writes."""
BLOCKS, ROWS = 4, 256
"""Largest numbers of blocks, and of rows or columns of a linear, in a step."""


@dataclass(frozen=True)
class RotatedLinear:
    """A linear between vectors that are rotated."""

    weight: Tensor
    """[out, in], with the norm before it folded in."""
    gram: Tensor
    """X^T X of its inputs without the norm's weight, [in, in]; its diagonal, [in], if the inputs
    are not rotated."""
    reads: str = ""
    """Vector that it reads: RESIDUAL, VALUES, or "" for any other."""
    writes: str = ""
    """Vector that it writes, in the same words."""


def learn(
    blocks: Sequence[Sequence[RotatedLinear]],
    sizes: tuple[int, int, int],
    steps: int,
    lr: float,
    seed: int,
    *,
    keep_mean: bool,
    on_step: Callable[[int, int], None],
) -> tuple[Tensor, list[Tensor], list[float]]:
    """Return the rotation of the residual stream, those of each block's values, and the mean
    entropy before and after.

    The importance of a weight is Wanda's, (W_ij ||X_j||)^2. Its entropy over a row (where the input
    is rotated) and over a column (where the output is) is minimized by Adam, over orthogonal
    matrices that are the Q of a QR decomposition. A step takes some blocks, and some rows or
    columns of the linears.

    Args:
        sizes: width of the residual stream, number of heads of the values, and width of a head.
        keep_mean: whether the rotation must keep the mean of a vector, as LayerNorm needs.
    """
    width, groups, head = sizes
    generator = torch.Generator().manual_seed(seed)
    device = blocks[0][0].weight.device
    stream = torch.eye(width - keep_mean, device=device).requires_grad_()
    heads = [torch.eye(head, device=device).repeat(groups, 1, 1).requires_grad_() for _ in blocks]
    optimizer = torch.optim.Adam([stream, *heads], lr=lr)

    def residual() -> Tensor:
        rotation = orthogonal(stream)
        if keep_mean:
            return fix_mean(rotation.double()).to(rotation.dtype)
        return rotation

    def entropy(chosen: Sequence[int], rows: int | None) -> Tensor:
        q = residual()
        parts = [
            entropies(linear, {RESIDUAL: q[None], VALUES: orthogonal(heads[i])}, rows, generator)
            for i in chosen
            for linear in blocks[i]
        ]
        return torch.cat(parts).mean()

    with torch.no_grad():
        first = float(entropy(range(len(blocks)), None))
    for step in range(steps):
        chosen = torch.randperm(len(blocks), generator=generator)[:BLOCKS].tolist()
        optimizer.zero_grad(set_to_none=True)
        entropy(chosen, ROWS).backward()
        optimizer.step()
        on_step(step + 1, steps)
    with torch.no_grad():
        last = float(entropy(range(len(blocks)), None))
        stream, heads = stream.double(), [head.double() for head in heads]
        return residual(), [orthogonal(head) for head in heads], [round(first, 4), round(last, 4)]


def orthogonal(matrix: Tensor) -> Tensor:
    """Return the Q of a QR decomposition with a positive diagonal of R, [..., n, n]."""
    q, r = torch.linalg.qr(matrix)
    return torch.mul(q, r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2))


def entropies(
    linear: RotatedLinear,
    rotations: dict[str, Tensor],
    rows: int | None,
    generator: torch.Generator,
) -> Tensor:
    """Return the entropy of the importance of each row or column that is not zero, in nats.

    rotations: orthogonal matrices [heads, size, size] by the name of the vector. rows: largest
    number of rows, or of columns, of a linear with one rotated side.
    """
    weight, norms = linear.weight, linear.gram
    if not linear.writes:
        weight = weight[torch.randperm(len(weight), generator=generator)[:rows]]
    if linear.reads:
        matrix = _of_width(rotations[linear.reads], weight.shape[1])
        weight = Rotation(matrix).columns(weight)
        parts = torch.stack(
            [
                norms[a : a + matrix.shape[1], a : a + matrix.shape[1]]
                for a in range(0, len(norms), matrix.shape[1])
            ]
        )
        norms = torch.einsum("hia,hij,hja->ha", matrix, parts, matrix).flatten()
    else:
        kept = torch.randperm(weight.shape[1], generator=generator)[:rows]
        weight, norms = weight[:, kept], norms[kept]
    if linear.writes:
        weight = Rotation(_of_width(rotations[linear.writes], len(weight))).vectors(weight.T).T
    importance = weight.square() * norms.clamp(min=0)
    sides = [side for side, name in ((1, linear.reads), (0, linear.writes)) if name]
    return torch.cat([_entropy(importance if side else importance.T) for side in sides])


def _of_width(matrix: Tensor, width: int) -> Tensor:
    """Repeat the matrices of heads for the heads of the queries that share them."""
    return matrix.repeat_interleave(width // (matrix.shape[0] * matrix.shape[1]), 0)


def _entropy(importance: Tensor) -> Tensor:
    """Return the entropy of each row that is not zero, in nats."""
    total = importance.sum(1, keepdim=True)
    used = total[:, 0] > 0
    share = importance[used] / total[used]
    # The logarithm of a share of zero has no gradient.
    return -(share * (share + torch.finfo(share.dtype).tiny).log()).sum(1)
