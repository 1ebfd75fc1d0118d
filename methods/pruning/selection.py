"""Which scores are the best: the kernels under `Pattern.keep`. Of equal scores the lowest index stays."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import combinations
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T")
RANKED_M = 16
"""Up to this m, ranks by pairwise comparison beat a sort; beyond it the m(m-1)/2 comparisons do not."""
CACHED = 2**17
"""Groups worked on at a time."""


def best(score: Tensor, sparsity: float, per: str) -> Tensor:
    """All but a fraction `sparsity` of the scores, counted over the layer or over each row. [out, in] -> bool [out, in].

    Raises:
        FloatingPointError: a score is NaN.
    """
    _refuse_nan(score)
    flat = score.reshape(1, -1) if per == "layer" else score
    kept = flat.shape[-1] - round(flat.shape[-1] * sparsity)
    chosen = flat.argsort(dim=-1, descending=True, stable=True)[..., :kept]
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(-1, chosen, True).reshape(score.shape)


def _refuse_nan(score: Tensor) -> None:
    if bool(score.sum().isnan()) and bool(score.isnan().any()):  # the sum is NaN if any is, and far cheaper
        raise FloatingPointError("a NaN among the scores: no order places it")


def best_of_groups(score: Tensor, n: int, m: int) -> Tensor:
    """The n best of every m along a row. score: [out, in], in a multiple of m; the mask is bool, like it.

    A weight's rank is the number of neighbours that beat it, ties going to the earlier; the n lowest ranks stay.

    Raises:
        FloatingPointError: a score is NaN.
    """
    _refuse_nan(score)
    groups = score.unflatten(-1, (-1, m))
    if m > RANKED_M:
        chosen = groups.argsort(dim=-1, descending=True, stable=True)[..., :n]
        return torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, chosen, True).flatten(-2)
    if m == 4 and score.device.type == "cpu":
        return _best_of_four(score, n)
    lanes = [lane.contiguous() for lane in groups.unbind(-1)]  # m x [out, in/m]: comparisons read straight through
    rank = [torch.zeros_like(lanes[0], dtype=torch.uint8) for _ in lanes]
    for i, j in combinations(range(m), 2):
        later_wins = lanes[j] > lanes[i]
        rank[i] += later_wins
        rank[j] += ~later_wins
    return torch.stack([r < n for r in rank], dim=-1).flatten(-2)


def _best_of_four(score: Tensor, n: int) -> Tensor:
    """The same for m = 4 on a CPU: the six comparisons of a group make a number that a table turns into its mask.

    In numpy, whose comparisons of contiguous floats are several times faster than torch's, in pieces that stay in
    cache, as many at a time as torch has threads.
    """
    flat = score.detach().float().reshape(-1, 4).numpy()
    out = np.empty(len(flat), dtype=np.int32)

    def piece(part: slice) -> None:
        _masks_into(out[part], flat[part], n)

    _in_pieces(len(flat), piece)
    return torch.from_numpy(out).view(torch.bool).view(score.shape)


def _masks_into(out: NDArray[np.int32], groups: NDArray[np.float32], n: int) -> None:
    """Masks of `groups` [groups, 4], four bytes each."""
    lanes = np.ascontiguousarray(groups.T)
    code = np.zeros(lanes.shape[1], dtype=np.uint8)
    later_wins = np.empty(lanes.shape[1], dtype=bool)
    for i, j in combinations(range(4), 2):
        np.greater(lanes[j], lanes[i], out=later_wins)
        code += code
        code |= later_wins.view(np.uint8)
    np.take(_masks_of_four(n), code, out=out, mode="clip")


def _in_pieces(groups: int, work: Callable[[slice], T]) -> list[T]:
    parts = [slice(a, a + CACHED) for a in range(0, groups, CACHED)]
    if len(parts) == 1:
        return [work(parts[0])]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(work, parts))


def remark(weight: Tensor, marks: Tensor, n: int, m: int) -> Tensor:
    """Mark anew, in place, the n largest |w| of every m along a row; both are [out, in].

    Returns:
        float64 [3], on the weight's device: the sum of |w| that is marked, of all |w|, and how many marks turned.

    Raises:
        FloatingPointError: a weight is NaN.
    """
    if m == 4 and weight.device.type == "cpu" and marks.is_contiguous():
        return _remark_fours(weight, marks, n)
    size = weight.abs().contiguous()
    new = best_of_groups(size, n, m)
    sums = measure(size, new, new != marks)
    marks.copy_(new)
    return sums


def measure(size: Tensor, marks: Tensor, turned: Tensor) -> Tensor:
    """As `remark` returns. size: |w|."""
    kept = (size * marks).sum(-1).sum(dtype=torch.float64)  # by row, then of rows: no sum of millions in float32
    return torch.stack([kept, size.sum(-1).sum(dtype=torch.float64), turned.sum().double()])


def _remark_fours(weight: Tensor, marks: Tensor, n: int) -> Tensor:
    """In numpy alone: torch's threads, once used, spin, and take the processors from these."""
    groups = weight.detach().float().contiguous().view(-1, 4).numpy()
    old = marks.view(-1).view(torch.int32).numpy()

    def piece(part: slice) -> tuple[float, float, int]:
        size = np.abs(groups[part])
        new = np.empty(len(size), dtype=np.int32)
        _masks_into(new, size, n)
        everything = size.sum(dtype=np.float32)
        size *= new.view(np.uint8).reshape(size.shape)
        turned = old[part] ^ new
        old[part] = new
        return float(size.sum(dtype=np.float32)), float(everything), int(np.count_nonzero(turned.view(np.uint8)))

    sums = torch.tensor(_in_pieces(len(groups), piece), dtype=torch.float64).sum(0)
    if bool(sums[1].isnan()):
        raise FloatingPointError("a NaN among the weights: no order places it")
    return sums


@cache
def _masks_of_four(n: int) -> NDArray[np.int32]:
    """[64]: for each outcome of the six comparisons, four bytes of mask."""
    masks = np.zeros((64, 4), dtype=bool)
    for code in range(64):
        rank = [0] * 4
        for bit, (i, j) in enumerate(combinations(range(4), 2)):  # the first comparison is the highest bit
            rank[i if code >> (5 - bit) & 1 else j] += 1
        masks[code] = [r < n for r in rank]
    return masks.view(np.int32).ravel()
