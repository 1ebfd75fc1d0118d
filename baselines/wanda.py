"""Wanda: keep the weights with the largest |W| * ||X||_2. Sun et al. 2024, arXiv 2306.11695.

With the router's weights: MoE-Pruner (Xie et al. 2024), arXiv 2410.12013.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from methods import Cost, Job, MethodInfo, Needs, Outcome, Walk


def squared_norm(x: Tensor, total: Tensor | None) -> Tensor:
    """Add the squared L2 norm of each input feature to `total`. [tokens, in] -> [in]"""
    squares = x.square().sum(0)
    return squares if total is None else total.add_(squares)


@dataclass(frozen=True)
class Wanda:
    """Keep the weights with the largest |W| * ||X||.

    Eq. 1: S_ij = |W_ij| * ||X_j||_2, compared per group; unstructured, per output row.
    gate: in an expert of a mixture, multiply each token of X by the router's weight of the expert.
    """

    name: ClassVar[str] = "wanda"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    shares_calibration: ClassVar[bool] = True
    info: ClassVar[MethodInfo] = MethodInfo(paper="2306.11695", cost=Cost(passes=2))
    gate: bool = False

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        walk = Walk(model, job, squared_norm, gated=self.gate)
        for visit in walk:
            score = visit.weight.abs().float() * visit.stat.sqrt()  # [out, in]
            visit.prune(job.pattern.keep(score, per="row"))
        return walk.outcome()
