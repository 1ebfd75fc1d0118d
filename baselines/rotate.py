"""Rotate: rotate the residual stream and the heads' values. Ashkboos et al. 2024 (QuaRot), arXiv 2404.00456."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from methods import Cost, Job, MethodInfo, Needs, Outcome, UserError
from methods.ranges import CountOrZero
from methods.transforms.changes import Rotation
from methods.transforms.hadamard import fix_mean, random_rotation
from methods.transforms.wiring import Wiring


@dataclass(frozen=True, kw_only=True)
class Rotate:
    """Rotate the residual stream and the values of the heads, so that no input is an outlier.

    Section 4 of QuaRot, stages 1a and 1b without the rotations at run time: norms are folded into the linears that read
    them, and every rotation into the linears around it, so nothing is left to compute. A tied head gets its own
    tensor. residual: rotate the residual stream; values: rotate the values of each head; seed: of the signs.
    """

    name: ClassVar[str] = "rotate"
    needs: ClassVar[Needs] = Needs.NOTHING
    info: ClassVar[MethodInfo] = MethodInfo(paper="2404.00456", dense=True, transform=True, cost=Cost())
    residual: bool = True
    values: bool = True
    seed: CountOrZero = 0

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        wiring = Wiring(model, job, self.name)
        generator = torch.Generator().manual_seed(self.seed)
        if self.residual:
            width: int = wiring.config.hidden_size
            mean = wiring.flow.mean
            matrix = fix_mean(random_rotation(width - 1, generator)) if mean else random_rotation(width, generator)
            wiring.residual(Rotation(matrix), fold=True)
        if self.values and wiring.flow.values:
            heads, groups = wiring.heads
            for block in wiring.blocks:
                width = wiring.width(f"{block}.{wiring.flow.values[1]}") // heads
                wiring.values(block, Rotation(random_rotation(width, generator).expand(groups, -1, -1)))
        elif not self.residual:
            raise UserError(f"rotate has nothing to rotate in {wiring.config.model_type}: leave residual=false out")
        return wiring.outcome()
