"""RIA: keep the weights that matter to their row and to their column. Zhang et al. 2024 (ICLR), "Plug-and-Play"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from baselines.wanda import squared_norm
from methods.contract import Job, Needs, Outcome
from methods.errors import UserError
from methods.pruning.walk import Walk


def relative(weight: Tensor) -> Tensor:
    """Relative importance: |W_ij| / sum_k |W_ik| + |W_ij| / sum_k |W_kj|. A row or column of zeros has none. [out, in]"""
    size = weight.abs().float()
    rows, columns = size.sum(1, keepdim=True), size.sum(0)
    tiny = torch.finfo(size.dtype).tiny
    return size / rows.clamp(min=tiny) + size / columns.clamp(min=tiny)


@dataclass(frozen=True)
class Ria:
    """Score: relative importance times ||X_j||_2^power, per group; unstructured, per layer as in the released code.

    power: the paper's a, 0.5 in its experiments; 0 leaves the inputs out. The paper's other half, a permutation of input
    channels before n:m is imposed, is not done here: the pattern is along the model's own order.
    """

    name: ClassVar[str] = "ria"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    power: float = 0.5

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        if not 0 <= self.power < torch.inf:
            raise UserError(f"ria:power={self.power} will not do: it is an exponent of the inputs' size, 0 or more")
        walk = Walk(model, job, squared_norm)
        for visit in walk:
            visit.prune(job.pattern.keep(relative(visit.weight) * visit.stat.sqrt() ** self.power))
        return walk.outcome()
