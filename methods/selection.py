"""Which scores are the best: the kernels under `Pattern.keep`. Of equal scores the lowest index stays."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import combinations

import torch
from torch import Tensor

RANKED_M = 16
"""Up to this m, ranks by pairwise comparison beat a sort; beyond it the m(m-1)/2 comparisons do not."""
CACHED = 2**16
"""Weights worked on at a time."""


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
    if m == 4:
        return _best_of_four(score, n)
    lanes = [lane.contiguous() for lane in groups.unbind(-1)]  # m x [out, in/m]: comparisons read straight through
    rank = [torch.zeros_like(lanes[0], dtype=torch.uint8) for _ in lanes]
    for i, j in combinations(range(m), 2):
        later_wins = lanes[j] > lanes[i]
        rank[i] += later_wins
        rank[j] += ~later_wins
    return torch.stack([r < n for r in rank], dim=-1).flatten(-2)


def _best_of_four(score: Tensor, n: int) -> Tensor:
    """The same for m = 4, the six comparisons of a group read as one number that a table turns into its mask.

    On a CPU in pieces that stay in its cache, each below the size at which torch would wake its own threads for every
    operation, and several pieces at a time.
    """
    flat = score.reshape(-1, 4)
    masks = _masks_of_four(n).to(score.device)
    out = torch.empty(len(flat), dtype=torch.int32, device=score.device)
    step = CACHED // 4 if score.device.type == "cpu" else max(1, len(flat))

    def piece(a: int) -> None:
        lanes = flat[a : a + step].unbind(-1)
        code = torch.zeros_like(lanes[0], dtype=torch.uint8)
        for bit, (i, j) in enumerate(combinations(range(4), 2)):
            code.add_((lanes[j] > lanes[i]).view(torch.uint8), alpha=1 << bit)
        torch.index_select(masks, 0, code.int(), out=out[a : a + step])

    starts = range(0, len(flat), step)
    if len(starts) > 1 and torch.get_num_threads() > 1:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            list(pool.map(piece, starts))
    else:
        for a in starts:
            piece(a)
    return out.view(torch.bool).view(score.shape)


@cache
def _masks_of_four(n: int) -> Tensor:
    """int32 [64]: for each outcome of the six comparisons, four bytes of mask."""
    masks = torch.zeros(64, 4, dtype=torch.bool)
    for code in range(64):
        rank = [0] * 4
        for bit, (i, j) in enumerate(combinations(range(4), 2)):
            rank[i if code >> bit & 1 else j] += 1
        masks[code] = torch.tensor([r < n for r in rank])
    return masks.view(torch.int32).flatten()
