"""Depth: remove decoder blocks. ShortGPT (Men et al. 2024), arXiv 2403.03853.

The search is after EvoPress (Sieberling et al. 2024), arXiv 2410.14649.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import ClassVar, Literal

import torch
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy

from methods import Cost, Does, Job, MethodInfo, Needs, Outcome, Removes, UserError
from methods.contract.method import NoProgress
from methods.contract.ranges import Count, CountOrZero, Share
from methods.model.smaller_folder import count_left
from methods.workshop.pruning.activations import Replay, batch_of, replaced, require_finite
from methods.workshop.pruning.holders import each_block, hold

OFFSPRING, MOST_SWAPS = 16, 3
"""Number of children in a generation, and largest number of blocks that a child trades."""


def influences(model: nn.Module, job: Job) -> list[float]:
    """Return the influence of each block: 1 - the mean over tokens of the cosine of its input and
    output (eq. 1)."""
    out = []
    for i, block, states in each_block(model, job):
        cosines, tokens = 0.0, 0
        for j, x in enumerate(states.hidden):
            y = states.run(i, block, x)
            cosines += float(
                cosine_similarity(x.float(), y.float(), dim=-1).sum(dtype=torch.float64)
            )
            tokens += x.shape[:-1].numel()
            require_finite(y, "the outputs of a block")
            states.hidden[j] = y
        out.append(1 - cosines / tokens)
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
    if not math.isfinite(total):
        raise FloatingPointError(
            "the loss of a set of blocks is not finite: activations overflowed"
        )
    return total / (tokens.numel() - len(tokens))


class SetLosses:
    """Loss of a model for a set of removed blocks. Each set is measured once."""

    def __init__(self, model: nn.Module, job: Job, expected: int) -> None:
        """expected: number of calls, for the progress."""
        self._model, self._job, self._expected = model, job, expected
        self._blocks = hold(model, job.source, job.compute).blocks
        self._known: dict[frozenset[int], float] = {}
        self._calls = 0

    @property
    def count(self) -> int:
        """Number of sets that were measured."""
        return len(self._known)

    def __call__(self, removed: Iterable[int]) -> float:
        key = frozenset(removed)
        if key not in self._known:
            with replaced(self._blocks, {f"{i}": Replay(self._blocks[i]) for i in key}):
                self._known[key] = loss(self._model, self._job)
        self._calls += 1
        self._job.progress.advance(self._calls, max(self._calls, self._expected))
        return self._known[key]


def drop_greedily(losses: Callable[[Iterable[int]], float], blocks: int, count: int) -> list[int]:
    """Return the blocks whose removal one by one raises the loss least, in order."""
    dropped: list[int] = []
    for _ in range(count):
        left = sorted(set(range(blocks)) - set(dropped))
        dropped.append(min(left, key=lambda i: losses([*dropped, i])))
    return dropped


def search(
    losses: Callable[[Iterable[int]], float],
    start: frozenset[int],
    blocks: int,
    evaluations: int,
    seed: int,
) -> frozenset[int]:
    """Return the removed blocks with the lowest loss among the start and `evaluations` draws.

    In each generation the parent has OFFSPRING children, and the best of all is the next parent. A
    child trades a few removed blocks for as many others (EvoPress, algorithm 1).
    """
    rng = random.Random(seed)
    most = min(MOST_SWAPS, len(start), blocks - len(start))
    parent = start
    for done in range(0, evaluations, OFFSPRING):
        children = []
        for _ in range(min(OFFSPRING, evaluations - done)):
            swaps = min(rng.randint(1, most), rng.randint(1, most))
            gone = rng.sample(sorted(parent), swaps)
            come = rng.sample(sorted(set(range(blocks)) - parent), swaps)
            children.append(parent.difference(gone).union(come))
        parent = min([parent, *children], key=losses)
    return parent


@dataclass(frozen=True, kw_only=True)
class Depth:
    """Remove whole decoder blocks; what is left is an ordinary smaller model.

    drop: share of the blocks, such as 25%, or their number. by: "influence" removes at once the
    blocks that change their input least. "perplexity" removes one block at a time, whose removal
    raises the perplexity of the calibration text least. "search" starts from the better of these
    two sets and evolves it towards the lowest perplexity. evaluations: number of sets that the
    search draws. If no more sets exist, it tries all.
    """

    name: ClassVar[str] = "depth"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(
        paper="2403.03853",
        does=Does.REMOVES,
        removes=(Removes("blocks", ("drop",)),),
        cost=Cost(
            passes=1,
            also="with by=perplexity, a pass for each block that is left, in each step; with "
            "by=search, also one for each of `evaluations`",
        ),
    )
    drop: CountOrZero | Share = "25%"
    by: Literal["influence", "perplexity", "search"] = "influence"
    evaluations: Count = 200

    def __post_init__(self) -> None:
        if self.evaluations != type(self).evaluations and self.by != "search":
            raise ValueError("evaluations are those of by=search: leave them out, or add by=search")

    @torch.inference_mode()
    def apply(self, model: nn.Module, job: Job) -> Outcome:
        config = model.config.to_dict()  # type: ignore[operator, union-attr]
        left = count_left({"blocks": self.drop}, config)["blocks"]
        blocks = len(hold(model, job.source, job.compute).blocks)
        count = blocks - left
        notes: dict[str, object]
        if self.by == "influence":
            scores = influences(model, job)
            removed = _lowest(scores, count)
            notes = {"influence": [float(f"{score:.6g}") for score in scores]}
        elif any(p.is_meta for p in model.parameters()):
            raise UserError(f"by={self.by} needs the whole model in memory: use by=influence")
        else:
            greedy = sum(range(left + 1, blocks + 1))
            evaluations = greedy
            if self.by == "search":
                evaluations += self.evaluations
            losses = SetLosses(model, job, evaluations)
            if self.by == "perplexity":
                removed = drop_greedily(losses, blocks, count)
                notes = {
                    "perplexity_after_each": [
                        _perplexity(losses(removed[: i + 1])) for i in range(count)
                    ]
                }
            else:
                removed, notes = self._search(model, job, losses, blocks, count)
        notes["blocks"] = {"of": blocks, "removed": removed}
        kept = tuple(sorted(set(range(blocks)) - set(removed)))
        return Outcome(model, kept={"blocks": kept}, notes=notes)

    def _search(
        self, model: nn.Module, job: Job, losses: SetLosses, blocks: int, count: int
    ) -> tuple[list[int], dict[str, object]]:
        """Return the removed blocks in order, and notes."""
        if math.comb(blocks, count) <= self.evaluations:
            best = min(map(frozenset, combinations(range(blocks), count)), key=losses)
            return sorted(best), {
                "search": {"perplexity": _perplexity(losses(best)), "sets": losses.count}
            }
        quiet = replace(job, progress=NoProgress())
        starts = {
            "influence": frozenset(_lowest(influences(model, quiet), count)),
            "perplexity": frozenset(drop_greedily(losses, blocks, count)),
        }
        start = min(starts.values(), key=losses)
        best = search(losses, start, blocks, self.evaluations, job.seed)
        before = {name: _perplexity(losses(removed)) for name, removed in starts.items()}
        return sorted(best), {
            "search": {
                "perplexity": _perplexity(losses(best)),
                "sets": losses.count,
                "starts": before,
            }
        }


def _lowest(scores: Sequence[float], count: int) -> list[int]:
    """Return the indices of the lowest scores, in the order of their scores."""
    return sorted(range(len(scores)), key=scores.__getitem__)[:count]


def _perplexity(loss: float) -> float:
    """Return exp of a loss with six digits."""
    return float(f"{torch.tensor(loss, dtype=torch.float64).exp():.6g}")
