"""RIA: keep the weights that are large for their row and column. Zhang et al. 2024 (ICLR),
"Plug-and-Play"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from baselines.wanda import squared_norm
from methods import Cost, Job, MethodInfo, Needs, Outcome, Walk
from methods.contract.info import Variant
from methods.contract.ranges import NonNegative


def relative_importance(weight: Tensor) -> Tensor:
    """Return |W_ij| / sum_k |W_ik| + |W_ij| / sum_k |W_kj|, [out, in]. A row or column of zeros
    gives 0."""
    size = weight.abs().float()
    rows, columns = size.sum(1, keepdim=True), size.sum(0)
    tiny = torch.finfo(size.dtype).tiny
    return size / rows.clamp(min=tiny) + size / columns.clamp(min=tiny)


@dataclass(frozen=True)
class Ria:
    """Keep weights that are large for their row and column, times ||X||^0.5.

    Score: relative importance times ||X_j||_2^power, compared per group.

    Unstructured, it is compared per layer, as in the released code.

    power: a in the paper, 0.5 in its experiments; 0 ignores the inputs. The paper's permutation of
    input channels before pruning to n:m is not implemented: groups are in the model's order.
    """

    name: ClassVar[str] = "ria"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    shares_calibration: ClassVar[bool] = True
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="ICLR 2024", cost=Cost(passes=2), variant=Variant("no channel permutation")
    )
    power: NonNegative = 0.5

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        walk = Walk(model, job, squared_norm)
        for visit in walk:
            visit.prune(
                job.pattern.keep(
                    relative_importance(visit.weight) * visit.stat.sqrt() ** self.power
                )
            )
        return walk.outcome()
