"""(2N-2):2N weights, such as 6:8, as overlapping windows of 2:4. SlideSparse (Hao et al. 2026),
arXiv 2603.05232.

A group of 2N weights has N - 1 windows of four weights, each two further. A kernel of 2:4 then
multiplies them by inputs that are repeated in the same way: 2(N-1)/N times as many, at half of the
dense arithmetic each, so N/(N-1) times as fast as dense.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.parts.packed24.packing import row_pieces
from methods.contract.errors import UserError
from methods.contract.pattern import Pattern

SIZE, STRIDE, KEPT = 4, 2, 2
"""Weights of a window, weights from one window to the next, and most non-zeros of a window."""
MAX_GROUP = 64
"""Largest group."""


def group_of(pattern: str) -> int:
    """Return 2N of a pattern (2N-2):2N. Raise UserError for another pattern."""
    parsed = Pattern.parse(pattern)
    if parsed.m % 2 or not 6 <= parsed.m <= MAX_GROUP or parsed.n != parsed.m - 2:
        raise UserError(
            f"{pattern} is not stored as windows of 2:4: give (2N-2):2N from 4:6 to 62:64, such "
            "as 6:8"
        )
    return parsed.m


def is_group(group: int) -> bool:
    """Return whether `group` is 2N of a pattern that is stored as windows."""
    return group % 2 == 0 and 6 <= group <= MAX_GROUP


def window_width(width: int, group: int) -> int:
    """Return the number of weights in the windows of a row. width: a multiple of the group."""
    return width // group * (group - STRIDE) // STRIDE * SIZE


def window_columns(width: int, group: int) -> Tensor:
    """Return the input of each window's weights, int64 [2 (N-1)/N width]. width: a multiple of the
    group."""
    starts = torch.arange(0, width, group)[:, None] + torch.arange(0, group - STRIDE, STRIDE)
    return (starts[..., None] + torch.arange(SIZE)).flatten()


def to_windows(weight: Tensor, group: int, name: str = "weight") -> Tensor:
    """Return the windows of a weight [out, in], with each non-zero in exactly one: [out, 2 (N-1)/N
    in], or raise UserError.

    From left to right, a window takes the first two non-zeros that no earlier one took. It cannot
    miss one: the others of its four weights are in the next window, too, and the last window has at
    most two left.
    """
    rows, width = weight.shape
    if width % group:
        raise UserError(
            f"{name} is {[rows, width]}: {group - 2}:{group} needs a width that {group} divides: "
            "leave it dense"
        )
    out = weight.new_empty(rows, window_width(width, group))
    for at in row_pieces(rows, width):
        groups = weight[at].unflatten(1, (-1, group))
        left = (groups != 0) | groups.signbit()  # packing refuses -0.0
        if (crowded := left.sum(-1) > group - STRIDE).any():
            row, place = (int(i) for i in crowded.nonzero()[0])
            raise UserError(
                f"{name} is not {group - 2}:{group}: row {at.start + row} has more than "
                f"{group - 2} non-zeros among weights {place * group} to "
                f"{place * group + group - 1}: prune the model with --pattern {group - 2}:{group} "
                "first"
            )
        windows = []
        for start in range(0, group - STRIDE, STRIDE):
            here = left[..., start : start + SIZE]
            taken = here & (here.cumsum(-1) <= KEPT)
            windows.append(groups[..., start : start + SIZE].where(taken, 0))
            left[..., start : start + SIZE] &= ~taken
        out[at] = torch.stack(windows, -2).flatten(1)
    return out


def from_windows(windows: Tensor, width: int, group: int) -> Tensor:
    """Return the weight [out, in] of its windows, bit for bit. width: its input size."""
    out = windows.new_zeros(len(windows), width)
    # Every weight is in one window, so that each sum has one term that is no zero.
    return out.index_add_(1, window_columns(width, group), windows)
