"""Select the largest scores: the kernels of `Pattern.keep`. Of equal scores the first is kept."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from methods.contract.pattern import Pattern

T = TypeVar("T")
RANKED_M = 16
"""Largest m for which m(m-1)/2 comparisons are faster than a sort."""
PIECE_GROUPS = 2**17
"""Groups per piece of work, few enough for a CPU's cache."""


def best(score: Tensor, sparsity: float, per: str) -> Tensor:
    """Return the mask of all but a fraction `sparsity` of the scores [out, in], per layer or per
    row. See `Pattern.keep`."""
    _refuse_nan(score)
    flat = score.reshape(1, -1) if per == "layer" else score
    count = flat.shape[-1] - round(flat.shape[-1] * sparsity)
    if not count:
        return torch.zeros_like(score, dtype=torch.bool)
    # Several times faster than a sort.
    last = flat.kthvalue(flat.shape[-1] - count + 1, dim=-1, keepdim=True).values
    above, equal = flat > last, flat == last
    room = count - above.sum(-1, keepdim=True)
    if bool((equal.sum(-1, keepdim=True) > room).any()):
        equal &= equal.cumsum(-1) <= room
    return (above | equal).reshape(score.shape)


def _refuse_nan(score: Tensor) -> None:
    # The sum is NaN if any score is, and is cheaper.
    if bool(score.sum().isnan()) and bool(score.isnan().any()):
        raise FloatingPointError("a score is NaN")


def best_of_groups(score: Tensor, n: int, m: int) -> Tensor:
    """Return the mask of the n largest of every m along a row, bool [out, in].

    score: [out, in]. in is a multiple of m.

    The rank of a score is the number of scores in its group that are larger, or equal and earlier.
    The n lowest ranks are kept. Raise FloatingPointError if a score is NaN.
    """
    _refuse_nan(score)
    # In float32, float64 scores that differ would be equal.
    is_quick = m == 4 and score.device.type == "cpu" and score.dtype != torch.float64
    if is_quick:
        return _best_of_four(score, n)
    return best_by_rank(score, n, m)


def best_by_rank(score: Tensor, n: int, m: int) -> Tensor:
    """Return the mask of `best_of_groups` without a check for NaN. The check would wait for the
    device.

    `topk` would keep other weights among equal scores, so the mask would depend on the device.
    """
    groups = score.unflatten(-1, (-1, m))
    if m > RANKED_M:
        chosen = groups.argsort(dim=-1, descending=True, stable=True)[..., :n]
        return torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, chosen, True).flatten(-2)
    # m x [out, in/m], so that comparisons read memory in order
    lanes = [lane.contiguous() for lane in groups.unbind(-1)]
    rank = [torch.zeros_like(lanes[0], dtype=torch.uint8) for _ in lanes]
    for i, j in combinations(range(m), 2):
        later_wins = lanes[j] > lanes[i]
        rank[i] += later_wins
        rank[j] += ~later_wins
    return torch.stack([r < n for r in rank], dim=-1).flatten(-2)


def _best_of_four(score: Tensor, n: int) -> Tensor:
    """Return the mask for m = 4 on a CPU. The results of the six comparisons of a group index a
    table of masks.

    numpy compares contiguous floats several times faster than torch. It works on pieces that fit
    the cache, on as many threads as torch has.
    """
    flat = score.detach().float().reshape(-1, 4).numpy()
    out = np.empty(len(flat), dtype=np.int32)

    def select(part: slice) -> None:
        _masks_into(out[part], flat[part], n)

    _in_pieces(len(flat), select)
    return torch.from_numpy(out).view(torch.bool).view(score.shape)


def _masks_into(out: NDArray[np.int32], groups: NDArray[np.float32], n: int) -> None:
    """Write the masks of `groups` [groups, 4], four bytes each."""
    lanes = np.ascontiguousarray(groups.T)
    code = np.zeros(lanes.shape[1], dtype=np.uint8)
    later_wins = np.empty(lanes.shape[1], dtype=bool)
    for i, j in combinations(range(4), 2):
        np.greater(lanes[j], lanes[i], out=later_wins)
        code += code
        code |= later_wins.view(np.uint8)
    np.take(_masks_of_four(n), code, out=out, mode="clip")


def _in_pieces(groups: int, work: Callable[[slice], T]) -> list[T]:
    parts = [slice(a, a + PIECE_GROUPS) for a in range(0, groups, PIECE_GROUPS)]
    if len(parts) == 1:
        return [work(parts[0])]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(work, parts))


def update_mask(weight: Tensor, mask: Tensor, pattern: Pattern) -> Tensor:
    """Set the mask, in place, to the largest |w| of every group of a pattern. Both are [out, in].

    Returns:
        float64 [3], on the weight's device: the sum of the |w| kept, of all |w|, and how many
        entries of the mask changed.

    Raises:
        FloatingPointError: a weight on a CPU is NaN. On a GPU a check would wait for the device. A
            NaN then shows in the sums.
    """
    is_on_cpu = weight.device.type == "cpu"
    kept, units = pattern.units
    if pattern.m == 4 and pattern.unit == 1 and is_on_cpu and mask.is_contiguous():
        return _update_mask_of_four(weight, mask, kept)
    size = weight.abs().contiguous() if is_on_cpu else weight.abs()
    choose = best_of_groups if is_on_cpu else best_by_rank
    new = pattern.per_weight(choose(pattern.unit_scores(size), kept, units))
    sums = mask_metrics(size, new, new != mask)
    mask.copy_(new)
    return sums


def mask_metrics(size: Tensor, mask: Tensor, changed: Tensor) -> Tensor:
    """Return the sums of `update_mask`. size: |w|; changed: bool, the entries that changed."""
    # By row, then over rows: no sum of millions in float32.
    kept = (size * mask).sum(-1).sum(dtype=torch.float64)
    return torch.stack([kept, size.sum(-1).sum(dtype=torch.float64), changed.sum().double()])


def _update_mask_of_four(weight: Tensor, mask: Tensor, n: int) -> Tensor:
    """Update a mask for m = 4 with numpy only. torch's threads spin after use and would take
    processor time from numpy."""
    groups = weight.detach().float().contiguous().view(-1, 4).numpy()
    old = mask.view(-1).view(torch.int32).numpy()

    def update(part: slice) -> tuple[float, float, int]:
        size = np.abs(groups[part])
        new = np.empty(len(size), dtype=np.int32)
        _masks_into(new, size, n)
        total = size.sum(dtype=np.float32)
        size *= new.view(np.uint8).reshape(size.shape)
        changed = old[part] ^ new
        old[part] = new
        return (
            float(size.sum(dtype=np.float32)),
            float(total),
            int(np.count_nonzero(changed.view(np.uint8))),
        )

    sums = torch.tensor(_in_pieces(len(groups), update), dtype=torch.float64).sum(0)
    if bool(sums[1].isnan()):
        raise FloatingPointError("a weight is NaN")
    return sums


@cache
def _masks_of_four(n: int) -> NDArray[np.int32]:
    """Return the mask for each result of the six comparisons, four bytes each: [64]."""
    masks = np.zeros((64, 4), dtype=bool)
    for code in range(64):
        rank = [0] * 4
        # The first comparison is the highest bit.
        for bit, (i, j) in enumerate(combinations(range(4), 2)):
            rank[i if code >> (5 - bit) & 1 else j] += 1
        masks[code] = [r < n for r in rank]
    return masks.view(np.int32).ravel()
