"""A method: which weights stay."""

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from methods import Job, Needs, Outcome, Walk
from methods.contract.ranges import Positive


@dataclass(frozen=True)
class RowNorm:
    """Magnitude divided by the norm of the weight's row."""

    name: ClassVar[str] = "row-norm"
    needs: ClassVar[Needs] = Needs.NOTHING
    power: Positive = 1.0

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        walk = Walk(model, job)
        for visit in walk:
            size = visit.weight.abs()
            norms = size.norm(dim=1, keepdim=True)
            visit.prune(job.pattern.keep(size / norms**self.power))
        return walk.outcome()
