"""Sparsity patterns along the input dimension: n:m, and unstructured.

Here **n:m keeps n of every m consecutive weights** of a row. Papers differ: the same words sometimes count the zeros.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.errors import UserError

RANKED_M = 16
"""Up to this m, ranks by pairwise comparison beat a sort; beyond it the m(m-1)/2 comparisons do not."""


@dataclass(frozen=True)
class Pattern:
    """Keep n of every m neighbours, or, where m is 0, all but a fraction `sparsity` of the weights.

    Weights and scores are [out, in]. Dense is n = m, so the control row needs no special case.
    """

    n: int = 1
    m: int = 1
    sparsity: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read "2:4" (2 of every 4 kept), "50%" (half of the weights zero, anywhere) or "dense".

        Raises:
            UserError: anything else.
        """
        if text == "dense":
            return cls()
        if found := re.fullmatch(r"(\d+):(\d+)", text):
            n, m = int(found[1]), int(found[2])
            if 0 < n <= m:
                return cls(n, m)
            raise UserError(f"pattern {text!r} cannot hold: n:m keeps n of every m weights, so 0 < n <= m; try 2:4")
        if (found := re.fullmatch(r"(\d+(?:\.\d+)?)%", text)) and 0 < float(found[1]) < 100:
            return cls(0, 0, float(found[1]) / 100)
        raise UserError(f"pattern {text!r} is not one: write n:m (2:4 keeps 2 of every 4), a sparsity (50%) or dense")

    def __str__(self) -> str:
        if self.dense:
            return "dense"
        return f"{self.n}:{self.m}" if self.m else f"{100 * self.sparsity:g}%"

    @property
    def dense(self) -> bool:
        return self.m > 0 and self.n == self.m

    @property
    def unstructured(self) -> bool:
        return self.m == 0

    def fits(self, width: int) -> bool:
        """Is a row of `width` weights a whole number of groups?"""
        return self.m == 0 or width % self.m == 0

    def keep(self, score: Tensor, *, per: str = "layer") -> Tensor:
        """Mask of the weights to keep: bool, [out, in] like score. Of equal scores the lowest index stays.

        per: what an unstructured pattern is counted over, "layer" or "row"; n:m has its groups.

        Raises:
            FloatingPointError: a score is NaN, which no order can place.
        """
        if bool(score.isnan().any()):
            raise FloatingPointError("a NaN among the scores: no order places it")
        if self.dense:
            return torch.ones_like(score, dtype=torch.bool)
        if self.m:
            return _keep_groups(score, self.n, self.m)
        flat = score.reshape(1, -1) if per == "layer" else score
        kept = flat.shape[-1] - round(flat.shape[-1] * self.sparsity)
        best = flat.argsort(dim=-1, descending=True, stable=True)[..., :kept]
        return torch.zeros_like(flat, dtype=torch.bool).scatter_(-1, best, True).reshape(score.shape)

    def violations(self, weight: Tensor) -> int:
        """Groups of `weight` [out, in] that hold more than n non-zeros.

        Unstructured: the weights too many, where rounding may leave one more in each row.
        """
        if self.dense:
            return 0
        if self.m:
            return int((weight.unflatten(-1, (-1, self.m)).count_nonzero(-1) > self.n).sum())
        allowed = weight.numel() * (1 - self.sparsity) + weight.shape[0]
        return max(0, int(weight.count_nonzero()) - int(allowed))


def _keep_groups(score: Tensor, n: int, m: int) -> Tensor:
    """A weight's rank is the number of neighbours that beat it; the n lowest ranks stay."""
    groups = score.unflatten(-1, (-1, m))
    if m > RANKED_M:
        best = groups.argsort(dim=-1, descending=True, stable=True)[..., :n]
        return torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, best, True).flatten(-2)
    lanes = [lane.contiguous() for lane in groups.unbind(-1)]  # m x [out, in/m]: each comparison reads straight through
    rank = [torch.zeros_like(lanes[0], dtype=torch.uint8) for _ in lanes]
    for i in range(m):
        for j in range(i + 1, m):
            later_wins = lanes[j] > lanes[i]  # a tie goes to the earlier lane
            rank[i] += later_wins
            rank[j] += ~later_wins
    return torch.stack([r < n for r in rank], dim=-1).flatten(-2)
