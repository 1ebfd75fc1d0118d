"""Which scores are the best: the kernels under `Pattern.keep`. Of equal scores the lowest index stays."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
    masks = _masks_of_four(n)
    out = np.empty(len(flat), dtype=np.int32)

    def piece(a: int) -> None:
        lanes = np.ascontiguousarray(flat[a : a + CACHED].T)
        code = np.zeros(lanes.shape[1], dtype=np.uint8)
        later_wins = np.empty(lanes.shape[1], dtype=bool)
        for i, j in combinations(range(4), 2):
            np.greater(lanes[j], lanes[i], out=later_wins)
            code += code
            code |= later_wins.view(np.uint8)
        np.take(masks, code, out=out[a : a + CACHED], mode="clip")

    starts = range(0, len(flat), CACHED)
    if len(starts) == 1:
        piece(0)
    else:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(piece, starts))
    return torch.from_numpy(out).view(torch.bool).view(score.shape)


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
