"""Wanda: keep the weights that meet the loudest inputs. Sun et al. 2024, arXiv 2306.11695."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from methods.contract import Job, Needs, Outcome
from methods.pruning.walk import Walk


def squared_norm(x: Tensor, so_far: Tensor | None) -> Tensor:
    """Squared L2 norm of each input feature. [tokens, in] -> [in]"""
    here = x.square().sum(0)
    return here if so_far is None else so_far.add_(here)


@dataclass(frozen=True)
class Wanda:
    """Eq. 1: S_ij = |W_ij| * ||X_j||_2, compared per group; unstructured, per output row."""

    name: ClassVar[str] = "wanda"
    needs: ClassVar[Needs] = Needs.CALIBRATION

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        walk = Walk(model, job, squared_norm)
        for visit in walk:
            score = visit.weight.abs().float() * visit.stat.sqrt()  # [out, in]
            visit.prune(job.pattern.keep(score, per="row"))
        return walk.outcome()
