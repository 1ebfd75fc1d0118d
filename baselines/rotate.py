"""Rotate the residual stream and the heads' values: QuaRot (arXiv 2404.00456) and DenoiseRotator
(arXiv 2505.23049)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from methods import Cost, Does, Job, MethodInfo, Needs, Outcome, UserError, Walk
from methods.contract.ranges import CountOrZero, Positive
from methods.contract.rules import CalibratedBy, TurnsBasis
from methods.model.targets import require_flow
from methods.workshop.pruning.hessian import add_gram, symmetric
from methods.workshop.transforms.changes import Rotation
from methods.workshop.transforms.hadamard import fix_mean, random_rotation
from methods.workshop.transforms.learned import RESIDUAL, VALUES, RotatedLinear, learn
from methods.workshop.transforms.wiring import Wiring


def principal(wiring: Wiring, job: Job) -> Tensor:
    """Return the principal components of the residual stream, the largest first, float64 [hidden,
    hidden].

    Raise UserError if norms subtract the mean, or follow the linears that write the stream.
    """
    require_flow(wiring.config.to_dict(), wiring.name, fold=True)
    if wiring.flow.mean:
        raise UserError(
            f"rotate:pca does not know the norms of {wiring.config.model_type}, which subtract "
            "the mean: leave pca out"
        )
    components: Tensor = torch.linalg.eigh(wiring.stream_moment(job))[1]
    return components.flip(1)


@dataclass(frozen=True, kw_only=True)
class Rotate:
    """Rotate the residual stream and the values of the heads, so that no input is an outlier.

    Section 4 of QuaRot, stages 1a and 1b without the rotations at run time: norms are folded into
    the linears that read them, and every rotation into the linears around it, so nothing is left to
    compute. A tied head gets its own tensor. residual: rotate the residual stream; values: rotate
    the values of each head; seed: seed of the signs.

    With steps the rotations are learned for pruning instead, as in DenoiseRotator: they gather the
    importance of weights on calibration text, so that less of it is pruned. steps: number of steps,
    0 for Hadamard matrices; lr: learning rate of Adam. pca: rotate the residual stream to its
    principal components on calibration text, for `channels` after it.
    """

    name: ClassVar[str] = "rotate"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2404.00456",
        does=Does.KEEPS_FUNCTION,
        cost=Cost(
            also="one pass over the weights; learned: also 2 passes over calibration text, and its "
            "steps; pca: 1 pass"
        ),
        rules=(TurnsBasis("residual", folds_norms=True), CalibratedBy(("steps", "pca"))),
        presets={"learned": {"steps": 400}, "pca": {"pca": True}},
    )
    residual: bool = True
    values: bool = True
    seed: CountOrZero = 0
    steps: CountOrZero = 0
    lr: Positive = 0.01
    pca: bool = False

    def __post_init__(self) -> None:
        if self.pca and (self.steps or not self.residual):
            raise ValueError(
                "pca rotates the residual stream to its principal components: leave steps and "
                "residual out"
            )
        if self.lr != type(self).lr and not self.steps:
            raise ValueError("lr is that of steps: leave it out, or add steps")

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        wiring = Wiring(model, job, self.name)
        if not self.residual and not (self.values and wiring.flow.values):
            raise UserError(
                f"rotate has nothing to rotate in {wiring.config.model_type}: leave "
                "residual=false out"
            )
        if self.steps:
            return self._learn(wiring, job)
        generator = torch.Generator().manual_seed(self.seed)
        if self.residual:
            width: int = wiring.config.hidden_size
            mean = wiring.flow.mean
            if self.pca:
                matrix = principal(wiring, job)
            else:
                if mean:
                    matrix = fix_mean(random_rotation(width - 1, generator))
                else:
                    matrix = random_rotation(width, generator)
            wiring.residual(Rotation(matrix), fold=True)
        if self.values and wiring.flow.values:
            heads, groups = wiring.heads
            for block in wiring.blocks:
                width = wiring.width(f"{block}.{wiring.flow.values[1]}") // heads
                wiring.values(
                    block, Rotation(random_rotation(width, generator).expand(groups, -1, -1))
                )
        return wiring.outcome()

    def _learn(self, wiring: Wiring, job: Job) -> Outcome:
        """Learn the rotations, and apply them."""
        if self.residual:
            require_flow(wiring.config.to_dict(), self.name, fold=True)
        linears = self._linears(wiring, job)
        if not linears:
            raise UserError(
                "rotate learns from targets that read or write what it rotates: include such "
                "targets"
            )
        groups = wiring.heads[1]
        values = wiring.flow.values
        head = wiring.width(f"{wiring.blocks[0]}.{values[1]}") // wiring.heads[0] if values else 1
        stream, heads, entropy = learn(
            list(linears.values()), (wiring.config.hidden_size, groups, head), self.steps, self.lr,
            self.seed, keep_mean=wiring.flow.mean, on_step=job.progress.advance,
        )  # fmt: skip
        if self.residual:
            wiring.residual(Rotation(stream.cpu()), fold=True)
        if self.values and values:
            for block, matrix in zip(linears, heads, strict=True):
                wiring.values(block, Rotation(matrix.cpu()))
        return wiring.outcome(entropy=entropy)

    def _linears(self, wiring: Wiring, job: Job) -> dict[str, list[RotatedLinear]]:
        """Return the targets that read or write what is rotated, with the statistics of their
        inputs, by block.

        A block without such targets is left out.
        """
        flow = wiring.flow
        gains = {
            name: wiring.gain(norm and f"{block}.{norm}")
            for block, norm, readers in wiring.readers()
            for name in readers
        }
        reads = dict.fromkeys(gains, RESIDUAL) if self.residual else {}
        writes = {}
        if self.residual:
            writes = {f"{b}.{w}": RESIDUAL for b in wiring.blocks for w in flow.writers}
        if self.values and flow.values:
            writes |= {f"{b}.{flow.values[0]}": VALUES for b in wiring.blocks}
            reads |= {f"{b}.{flow.values[1]}": VALUES for b in wiring.blocks}
        found: dict[str, list[RotatedLinear]] = {block: [] for block in wiring.blocks}
        for visit in Walk(wiring.model, job, add_gram):
            block = next((b for b in wiring.blocks if visit.name.startswith(f"{b}.")), None)
            role = reads.get(visit.name, ""), writes.get(visit.name, "")
            if block is None or not any(role):
                continue
            weight, gram = visit.weight.float(), symmetric(visit.stat)
            if role[0] == RESIDUAL and (gain := gains[visit.name]) is not None:
                gain = gain.float().to(weight.device)
                weight, scale = weight * gain, torch.where(gain == 0, 0, 1 / gain)
                gram = scale[:, None] * gram * scale
            found[block].append(
                RotatedLinear(
                    weight.clone(), gram.clone() if role[0] else gram.diagonal().clone(), *role
                )
            )
        return {block: linears for block, linears in found.items() if linears}
