"""Sparsity patterns along the input dimension: n:m, and unstructured.

Here **n:m keeps n of every m consecutive weights** of a row. Papers differ: the same words sometimes count the zeros.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from methods.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


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
        from methods.pruning import selection  # here, so that a plan needs no torch

        if self.m:
            return selection.best_of_groups(score, self.n, self.m)
        return selection.best(score, self.sparsity, per)

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
