"""Quantizers of rotated weights: the storage that they share, and the feedback of their errors.

A linear is turned into a basis in which its weights look Gaussian
(`methods.workshop.transforms.incoherence`), quantized there, and turned back to be measured. Only
the codes of the turned weight are stored. A family of codes derives a codec from `RotatedCodec`,
and a quantizer with feedback from `RotatedQuantizer`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from bench.parts.codebooks import tuned
from methods.contract.codec import StoredWeight
from methods.contract.errors import Skipped
from methods.contract.method import Job, Needs, Outcome
from methods.contract.ranges import CountOrZero, Fraction
from methods.model.targets import family_of
from methods.workshop.pruning.hessian import HessianWalk, inverse_factor
from methods.workshop.transforms.incoherence import turn_hessian, turn_weight, turn_weight_back

COLUMNS = 16
"""Number of columns that share a scale, in all rows."""
BLOCK = 128
"""Number of columns after which all later ones are updated."""


@dataclass(frozen=True)
class RotatedCodec:
    """Codes of a turned weight, with a scale for each COLUMNS columns.

    Parts: `codes` uint8 [rows, columns], at least those of the weight; `scales` bfloat16
    [columns / COLUMNS]; after tuning `gain`, float16 [out], a factor of each row of the weight that
    is turned back. A subclass may add others.
    """

    name: ClassVar[str]
    width: int
    """Bits of a code."""
    shape: tuple[int, int]
    """Shape [out, in] of the weight."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))  # JSON has lists

    def __str__(self) -> str:
        return f"{self.name} of {self.width} bits"

    @property
    def bits(self) -> Mapping[str, int]:
        return {"codes": self.width}

    @abstractmethod
    def points(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return the numbers that all codes stand for, float32 [rows, columns], in units of their
        scales."""

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        out, width = self.shape
        scales = parts["scales"].float().repeat_interleave(COLUMNS)[:width]
        weight = turn_weight_back(self.points(parts)[:out, :width] * scales)
        if tuned.GAIN in parts:
            weight *= parts[tuned.GAIN].float().unsqueeze(1)
        return weight

    def scale(self, columns: Tensor) -> Tensor:
        """Return the root of the mean square of columns [n, rows], bfloat16 []; 1 if all are zero.
        Rows behind those of the weight are zero."""
        count = len(columns) * self.shape[0]
        scale = columns.square().sum().div(count).sqrt().bfloat16()
        return scale.masked_fill(scale == 0, 1)


def compensate_tiles_(
    weight: Tensor, factor: Tensor, quantize: Callable[[int, Tensor], Tensor], columns: int
) -> Tensor:
    """Return a weight [out, in] that is quantized some columns at a time, as float32.

    Later columns compensate the error. With one column at a time this is `compensate_`. With B the
    columns of a tile and E their error, Y = E U_BB^-1, and all later columns change by -Y U_B,later
    (block LDLQ, QuIP#, arXiv 2402.04396).

    Args:
        factor: U, upper triangular [in, in], with U^T U = H^-1.
        quantize: given the first column of a tile and its current values [columns, out], returns
            their final values.
        columns: number of columns of a tile; a divisor of BLOCK. The last tile may have fewer.
    """
    w = weight.detach().float().T.contiguous()
    for start in range(0, len(w), BLOCK):
        end = min(start + BLOCK, len(w))
        y = torch.zeros_like(w[start:end])
        for a in range(start, end, columns):
            b = min(a + columns, end)
            values = quantize(a, w[a:b])
            corner = factor[a:b, a:b].T
            y[a - start : b - start] = torch.linalg.solve_triangular(
                corner, w[a:b] - values, upper=False
            )
            w[a:b] = values
            w[b:end].addmm_(factor[a:b, b:end].T, y[a - start : b - start], alpha=-1)
        w[end:].addmm_(factor[start:end, end:].T, y, alpha=-1)
    return w.T


class Prepared(NamedTuple):
    """What linears that share an input need of it, in the turned basis."""

    factor: Tensor
    """U, upper triangular [in, in], with U^T U = H^-1."""
    correction: Tensor | None = None
    """C [in, in]: the weight that is quantized is W + W C."""


def prepare(hessian: Tensor, damping: float) -> tuple[Prepared, float]:
    """Return the factor of a turned Hessian, and the damping used."""
    factor, damping = inverse_factor(turn_hessian(hessian), damping)
    return Prepared(factor), damping


def require_dense(name: str, job: Job) -> None:
    """Raise Skipped if weights are pruned: a turned weight is a sum of all weights, with no
    zero."""
    if not job.pattern.dense:
        raise Skipped(
            f"{name} rotates the weights, so no zero of {job.pattern} is kept: use int3-gptq or "
            f"int4-gptq after pruning, or {name} on the dense model"
        )


@dataclass(frozen=True)
class RotatedQuantizer:
    """Quantizer whose codes are of turned weights, with feedback by the factor of the Hessian.

    A subclass states its name, and that it needs calibration: the catalog reads that in its file.
    Zeros are not kept, so a pruned model is refused. damping: fraction of H's mean diagonal that is
    added to the diagonal. asymmetry: share of the way from W to the least-squares fit of the
    outputs that W had before anything was quantized, on the inputs that the quantized linears
    before it give (the objective of GPTAQ, arXiv 2504.02692, and Qronos, 2505.11695). 0 needs no
    second model in memory. A mixture of experts has 0. tune: steps of training in a block after the
    linears of each input are fixed, each on one calibration sequence, and twice as many through the
    whole model at the end; 0 for none. tune_rate: learning rate of a block's first step, in units
    of each parameter's root mean square. last_rate: learning rate at the end.
    """

    name: ClassVar[str]
    needs: ClassVar[Needs]
    damping: Fraction = 0.01
    asymmetry: Fraction = 0.5
    tune: CountOrZero = 0
    tune_rate: Fraction = 0.006
    last_rate: Fraction = 0.001

    @abstractmethod
    def codec(self, shape: tuple[int, int]) -> Any:
        """Return the codec of a weight of a shape [out, in]: a `RotatedCodec` with encode(weight,
        factor), which returns the parts of a turned weight, float32 [out, in]. factor: U, upper
        triangular [in, in], with U^T U = H^-1 of the turned Hessian."""

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        require_dense(self.name, job)
        family = family_of(model.config.to_dict())  # type: ignore[operator, union-attr]
        if self.tune or (self.asymmetry and not family.experts):
            tuning = tuned.Tuning(self.tune, self.tune_rate, 2 * self.tune, self.last_rate)
            return tuned.quantize(self.name, model, job, tuning, self._prepare, self._stored)
        walk = HessianWalk(model, job, self.damping, prepare)
        for visit, prepared in walk:
            one = self._stored(visit.weight, prepared)
            visit.store(one.codec, one.parts)
        return walk.outcome()

    def _prepare(self, hessian: Tensor, cross: Tensor) -> Prepared:
        """Return what `_stored` needs of an input.

        cross: (X - X')^T X' in the units of the Hessian X'^T X', [in, in]; X: the inputs before
        anything was quantized.
        """
        factor = prepare(hessian, self.damping)[0].factor
        # turn_hessian also transposes, which a symmetric matrix does not show
        turned = turn_hessian(cross.T)
        return Prepared(factor, self.asymmetry * (turned @ factor.T) @ factor)

    def _stored(self, weight: Tensor, prepared: Prepared) -> StoredWeight:
        out, width = weight.shape
        codec, turned = self.codec((out, width)), turn_weight(weight)
        if prepared.correction is not None:
            turned += turned @ prepared.correction
        return StoredWeight(codec, codec.encode(turned, prepared.factor))
