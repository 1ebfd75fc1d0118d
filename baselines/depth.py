"""Depth: remove decoder blocks. ShortGPT (Men et al. 2024), arXiv 2403.03853."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy

from methods import Cost, Job, MethodInfo, Needs, Outcome, UserError
from methods.pruning.activations import batch_of
from methods.pruning.holders import hold
from methods.pruning.streaming import Replay
from methods.ranges import CountOrZero, Share
from methods.smaller import Kept, count_blocks


def influences(model: nn.Module, job: Job) -> list[float]:
    """Return the influence of each block: 1 - the mean over tokens of the cosine of its input and output (eq. 1)."""
    tokens = job.calibration
    assert tokens is not None
    held = hold(model, job.source, job.compute, by_expert=False)
    states = held.start(tokens.split(batch_of(tokens, job.compute.device)), job.compute, last=True)
    out = []
    with held:
        for i in range(len(held.blocks)):
            cosines = 0.0
            with held.block(i) as block:
                for j, x in enumerate(states.hidden):
                    y = states.run(i, block, x)
                    cosines += float(cosine_similarity(x.float(), y.float(), dim=-1).sum(dtype=torch.float64))
                    states.hidden[j] = y
            out.append(1 - cosines / tokens.numel())
            job.progress.advance(i + 1, len(held.blocks))
    return out


def loss(model: nn.Module, job: Job) -> float:
    """Return the mean cross-entropy of the next calibration token, in nats."""
    tokens = job.calibration
    assert tokens is not None
    total = 0.0
    for part in tokens.split(batch_of(tokens, job.compute.device)):
        ids = part.to(job.compute.device)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        total += float(cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"))
    return total / (tokens.numel() - len(tokens))


def drop_greedily(model: nn.Module, job: Job, count: int) -> tuple[list[int], list[float]]:
    """Return the blocks whose removal one by one raises the loss least, in order, and the perplexity after each."""
    blocks = hold(model, job.source, job.compute).blocks
    originals: list[nn.Module] = list(blocks)
    dropped: list[int] = []
    perplexities: list[float] = []
    try:
        for step in range(count):
            losses: dict[int, float] = {}
            for i in sorted(set(range(len(blocks))) - set(dropped)):
                blocks[i] = Replay(originals[i])
                losses[i] = loss(model, job)
                blocks[i] = originals[i]
            best = min(losses, key=losses.__getitem__)
            blocks[best] = Replay(originals[best])
            dropped.append(best)
            perplexities.append(float(torch.tensor(losses[best], dtype=torch.float64).exp()))
            job.progress.advance(step + 1, count)
    finally:
        for i, block in enumerate(originals):
            blocks[i] = block
    return dropped, perplexities


@dataclass(frozen=True, kw_only=True)
class Depth:
    """Remove whole decoder blocks; what is left is an ordinary smaller model.

    drop: share of the blocks, such as 25%, or their number; by: "influence", all at once those that change their input
    least, or "perplexity", one at a time that whose removal raises the perplexity of the calibration text least.
    """

    name: ClassVar[str] = "depth"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2403.03853",
        dense=True,
        drops="drop",
        cost=Cost(passes=1, also="with by=perplexity, a pass for each block that is left, in each step"),
    )
    drop: CountOrZero | Share = "25%"
    by: Literal["influence", "perplexity"] = "influence"

    @torch.inference_mode()
    def apply(self, model: nn.Module, job: Job) -> Outcome:
        left = count_blocks(self.drop, model.config.to_dict())  # type: ignore[operator, union-attr]
        blocks = len(hold(model, job.source, job.compute).blocks)
        notes: dict[str, object]
        if self.by == "influence":
            scores = influences(model, job)
            order = sorted(range(len(scores)), key=scores.__getitem__)
            notes = {"influence": [float(f"{score:.6g}") for score in scores]}
        else:
            if any(p.is_meta for p in model.parameters()):
                raise UserError("by=perplexity needs the whole model in memory: use by=influence")
            order, perplexities = drop_greedily(model, job, blocks - left)
            notes = {"perplexity_after_each": [float(f"{p:.6g}") for p in perplexities]}
        notes["blocks"] = {"of": blocks, "removed": order[: blocks - left]}
        return Outcome(
            model, kept=Kept(blocks=tuple(sorted(set(range(blocks)) - set(order[: blocks - left])))), notes=notes
        )
