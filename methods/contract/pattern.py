"""Sparsity patterns along the input dimension: n:m, pairs of n:m, and unstructured.

**n:m keeps n of every m consecutive weights** of a row. In some papers the same words count the
zeros. pairs:n:m keeps whole pairs of neighbors: pairs:4:8 keeps two of the four pairs of every
eight weights. Sparse tensor cores with 4-bit operands run that pattern, and no 2:4 (PTX ISA,
9.7.14.6.1 and 9.7.16.10.8).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from methods.contract.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pattern:
    """Keep n of every m consecutive weights; if m is 0, all but a fraction `sparsity` of the
    weights.

    Weights and scores are [out, in]. Dense is n = m. A method that takes its mask from `keep` needs
    to know nothing of pairs.
    """

    n: int = 1
    m: int = 1
    sparsity: float = 0.0
    beside: str = ""
    """Low-rank term beside the weights: its rank, such as "r16", or the share of the dense bytes
    that it takes, "10%"."""
    removed: tuple[str, str] | None = None
    """Method that removed parts of the model, and their number or share: ("depth", "25%"). The rest
    is dense."""
    unit: int = 1
    """Number of neighbors that are kept or removed together: 2 for pairs."""

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Read "2:4" (2 of every 4 kept), "pairs:4:8" (2 of every 4 pairs kept), "50%" (half of the
        weights zero, anywhere), "dense", or "NAME 25%": a quarter of the parts removed by the
        method NAME. " + r16" after n:m or a sparsity is a low-rank term of rank 16, and " + 10%"
        one that takes a tenth of the dense bytes. `str` is the inverse.

        Raises:
            UserError: anything else.
        """
        base, _, beside = text.partition(" + ")
        if (
            re.fullmatch(r"r[0-9]{1,6}|[0-9]{1,6}(\.[0-9]{1,4})?%", beside)
            and not (pattern := cls.parse(base)).dense
        ):
            return replace(pattern, beside=beside)
        if text == "dense":
            return cls()
        match = re.fullmatch(
            r"([a-z][a-z0-9_-]{0,63}) ([0-9]{1,6}(?:\.[0-9]{1,4})?%|[0-9]{1,6})", text
        )
        if match:
            return cls(removed=(match[1], match[2]))
        match = re.fullmatch(r"(pairs:)?([0-9]{1,6}):([0-9]{1,6})", text)
        if match:
            n, m, unit = int(match[2]), int(match[3]), 2 if match[1] else 1
            if n % unit or m % unit:
                raise UserError(
                    f"invalid pattern {text!r}: pairs:n:m keeps whole pairs, so n and m must be "
                    "even; for example pairs:4:8"
                )
            if 0 < n <= m:
                return cls(n, m, unit=unit) if n < m else cls()
            raise UserError(
                f"invalid pattern {text!r}: n:m keeps n of every m weights, so n must be from 1 "
                "to m; for example 2:4"
            )
        match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,4})?)%", text)
        if match and 0 < float(match[1]) < 100:
            return cls(0, 0, float(match[1]) / 100)
        raise UserError(
            f"invalid pattern {text!r}: use n:m (2:4 keeps 2 of every 4), pairs:4:8, a sparsity of "
            "up to four decimals (50%) or dense"
        )

    def __str__(self) -> str:
        if self.removed:
            return " ".join(self.removed)
        if self.dense:
            return "dense"
        if self.beside:
            return f"{self.base} + {self.beside}"
        if self.m:
            return f"{'pairs:' if self.unit == 2 else ''}{self.n}:{self.m}"
        return f"{100 * self.sparsity:g}%"

    @property
    def base(self) -> Pattern:
        """The pattern of the weights alone."""
        return replace(self, beside="")

    @property
    def dense(self) -> bool:
        return self.m > 0 and self.n == self.m

    @property
    def unstructured(self) -> bool:
        return self.m == 0

    @property
    def share(self) -> float:
        """Fraction of the weights that are zero."""
        if self.m:
            return 1 - self.n / self.m
        return self.sparsity

    @property
    def units(self) -> tuple[int, int]:
        """Number of units that a group keeps, and number of units of a group: 2 and 4 for
        pairs:4:8."""
        return self.n // self.unit, self.m // self.unit

    def implies(self, other: Pattern) -> bool:
        """Return whether every mask of this n:m pattern also has the other one, by the most units
        of the other that a group can need. False if groups overlap in part."""
        if not self.m or not other.m or (self.m % other.m and other.m % self.m):
            return False
        kept, _ = self.units
        needed = kept * max(1, self.unit // other.unit)
        size = min(self.m, other.m)
        inside = min(needed, size // other.unit) * (other.m // size)
        return self.m % other.unit == 0 and inside <= other.units[0]

    @property
    def mask_bits(self) -> float:
        """Bits of a stored mask per weight: one bit for each unit."""
        return 1 / self.unit

    def per_unit(self, values: Tensor) -> Tensor:
        """Return the sum of each unit: [..., in] -> [..., in / unit]."""
        if self.unit == 1:
            return values
        sums: Tensor = values.unflatten(-1, (-1, self.unit)).sum(-1)
        return sums

    def unit_scores(self, score: Tensor) -> Tensor:
        """Return the score of each unit, [..., in / unit]: the sum of its squares, since squares of
        errors add up; of single weights their own score."""
        if self.unit == 1:
            return score
        # float16 has no squares of small numbers.
        wide = score if score.dtype.itemsize > 2 else score.float()
        return self.per_unit(wide.square())

    def per_weight(self, values: Tensor) -> Tensor:
        """Repeat the value of each unit for its weights: [..., in / unit] -> [..., in]."""
        if self.unit == 1:
            return values
        return values.repeat_interleave(self.unit, -1)

    def require_groups(self, label: str) -> None:
        """Raise UserError if the pattern is unstructured. label: name of the method that needs
        n:m."""
        if self.unstructured:
            raise UserError(
                f"{label} needs an n:m pattern, and {self} is not one: use, for example, 2:4"
            )

    def fits(self, width: int) -> bool:
        """Return whether a row of `width` weights is a whole number of groups."""
        return self.m == 0 or width % self.m == 0

    def require_whole_groups(self, size: int, option: str) -> None:
        """Raise UserError if `size` columns are not a whole number of groups. option: name of the
        setting."""
        if not self.fits(size):
            raise UserError(
                f"invalid {option}={size}: must be a multiple of {self.m} for pattern {self}"
            )

    def keep(self, score: Tensor, *, per: str = "layer") -> Tensor:
        """Return the mask of the largest scores: bool [out, in], like score. Of equal scores the
        first is kept.

        score: what a weight counts, as a size. Of pairs the squares add up.

        per: "layer" or "row", the unit in which an unstructured pattern is counted.

        Raises:
            ValueError: another unit.
            FloatingPointError: a score is NaN.
        """
        if per not in ("layer", "row"):
            raise ValueError(f"unknown per={per!r}: give layer or row")
        from methods.workshop.pruning import selection  # here, so that a plan needs no torch

        if self.m:
            return self.per_weight(selection.best_of_groups(self.unit_scores(score), *self.units))
        return selection.best(score, self.sparsity, per)

    def violations(self, weight: Tensor) -> int:
        """Return the number of groups of `weight` [out, in] with more than n non-zeros, or with
        non-zeros in more than n/2 pairs.

        Unstructured: the number of excess non-zeros. Rounding may leave one more in each row.
        """
        if self.dense:
            return 0
        if self.m:
            kept, size = self.units
            if self.unit > 1:
                weight = weight.unflatten(-1, (-1, self.unit)).count_nonzero(-1)
            return int((weight.unflatten(-1, (-1, size)).count_nonzero(-1) > kept).sum())
        allowed = weight.numel() * (1 - self.sparsity) + weight.shape[0]
        return max(0, int(weight.count_nonzero()) - int(allowed))

    def broken_in(self, count: int) -> str:
        """Return words for a number of violations: "2:4 does not hold in 1 group"."""
        noun = "group" if self.m else "weight"
        if count != 1:
            noun += "s"
        return f"{self} does not hold in {count:,} {noun}"
