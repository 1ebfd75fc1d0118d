"""Magnitude: keep the largest weights. Han et al. 2015, arXiv 1506.02626."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from methods import Cost, Job, MethodInfo, Needs, Outcome, Walk


@dataclass(frozen=True)
class Magnitude:
    """Keep the weights with the largest |W|.

    Score |W|, compared per group; unstructured, per layer.
    """

    name: ClassVar[str] = "magnitude"
    needs: ClassVar[Needs] = Needs.NOTHING
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="1506.02626", cost=Cost(also="one pass over the weights")
    )

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        walk = Walk(model, job)
        for visit in walk:
            visit.prune(job.pattern.keep(visit.weight.abs()))
        return walk.outcome()
