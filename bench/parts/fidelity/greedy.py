"""How a model follows the greedy answers of the dense model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.measures.contract import MeasureContext
from bench.measures.generation import Ids, cached_answers, fit, states_along
from bench.measures.state_check import StateCheck
from bench.parts.fidelity.distances import DistanceReader, clamped
from bench.parts.fidelity.tally import DISTANCES, buckets_of_positions
from methods.contract.errors import Skipped
from methods.model.logits import head_of


@dataclass(frozen=True)
class Followed:
    """How a model follows an answer."""

    kl: float
    """Mean KL(dense || model) over the answer's tokens, in nats."""
    tokens: int
    """Tokens of the answer."""
    beside: Mapping[str, float]
    """Tokens before the first other token, whether the answer stays whole, and KL by position."""


def along_own_answers(
    model: Callable[[], nn.Module], context: MeasureContext, prompts: Sequence[Ids], tokens: int
) -> list[Followed]:
    """Return how a model follows the dense model's greedy answers.

    prompts: cut on the left to the model's positions. tokens: largest number in an answer. Raise
    Skipped if the model has another vocabulary.
    """
    with torch.no_grad():
        # Beside the original's head, one model is in memory at a time.
        prompts, answers, head, states = _of_dense(context, prompts, tokens)
        loaded = model()
        check = StateCheck(loaded)
        own, reader = head_of(loaded), DistanceReader()
        out = []
        device = context.compute.device
        followed = states_along(loaded, prompts, answers, device)
        pairs = zip(answers, states, followed, strict=True)
        for answer, before, after in pairs:
            logits = [side(state).float() for side, state in ((head, before), (own, after))]
            if logits[0].shape != logits[1].shape:
                raise Skipped(
                    f"KL needs one vocabulary, and the model has {logits[1].shape[-1]:,} logits "
                    f"where the original has {logits[0].shape[-1]:,}"
                )
            kl = clamped(reader.read(*logits))[:, DISTANCES.index("kl")]
            chosen = logits[1].argmax(-1).cpu() == torch.tensor(answer)
            out.append(_followed(kl.double().cpu(), chosen, tokens))
            context.progress.advance(len(out), len(answers))
        check.require_numbers("the model")
    return out


def _of_dense(
    context: MeasureContext, prompts: Sequence[Ids], tokens: int
) -> tuple[Sequence[Ids], list[Ids], nn.Module, list[Tensor]]:
    """Return the prompts as the dense model sees them, its answers, its head, and the states that
    predict each answer."""
    dense: Any = context.load_dense()
    check = StateCheck(dense)
    prompts, device = fit(prompts, dense, tokens), context.compute.device
    answers = cached_answers(lambda: dense, context.source, context.compute, prompts, tokens)
    states = list(states_along(dense, prompts, answers, device))
    check.require_numbers("the dense model")
    return prompts, answers, head_of(dense), states


def _followed(kl: Tensor, same: Tensor, longest: int) -> Followed:
    """Return the numbers of an answer. kl: of each token; same: whether the model chooses it."""
    until = int(same.int().cumprod(0).sum())
    beside = {"first_divergence": float(until), "whole_answers": float(until == len(same))}
    for label, first, last in buckets_of_positions(longest + 1):
        part = kl[first - 1 : last]
        beside |= {f"{label}: kl": float(part.sum()), f"{label}: tokens": float(len(part))}
    return Followed(float(kl.mean()), len(kl), beside)
