"""Perplexity: exp of the mean cross-entropy of the next token, over windows without overlap."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench.inputs import windows
from bench.measures import forward
from bench.measures.contract import MeasureContext, Readings
from bench.measures.windowed import Windowed, mean_and_stderr
from bench.results.record import Item, Reading

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Perplexity(Windowed):
    name: ClassVar[str] = "perplexity"

    def read(self, model: Callable[[], nn.Module], rig: MeasureContext) -> Readings:
        """
        Raises:
            UserError: the corpus has not one window, or fewer than were asked for.
        """
        tokens, clusters = self.cut(rig)
        losses = window_losses(forward.forward_windows(model, rig.folder, tokens, self.per_forward, rig), tokens, rig)
        targets = self.seqlen - 1
        items = tuple(
            Item(str(i), c, nll, float(targets)) for i, (c, nll) in enumerate(zip(clusters, losses, strict=True))
        )
        mean, stderr = mean_and_stderr([x / targets for x in losses])
        ppl = math.exp(mean) if mean < 700 else math.inf
        reading = Reading(
            "perplexity", ppl, "1", "lower", stderr=ppl * stderr if stderr is not None else None, n=len(losses)
        )
        return Readings((reading,), items, tokens.numel(), windows.token_digest(tokens))


def window_losses(made: forward.ForwardPass, tokens: Tensor, rig: MeasureContext) -> list[float]:
    """Summed cross-entropy of each window in nats, in float32. tokens: int64 [windows, seqlen]."""
    import torch

    losses: list[float] = []
    with torch.inference_mode():
        for states in made.states:
            ids = tokens[len(losses) : len(losses) + len(states)].to(rig.compute.device)
            hidden = states[:, :-1].to(rig.compute.device).flatten(0, 1)
            losses += _cross_entropy(hidden, made.head, ids[:, 1:].flatten()).view(len(ids), -1).sum(1).tolist()
    return losses


def _cross_entropy(hidden: Tensor, head: nn.Module, targets: Tensor) -> Tensor:
    """Per token, in chunks of rows, so that the logits [tokens, vocabulary] never exist whole."""
    import torch

    out = torch.empty(len(targets), device=hidden.device)
    for rows, (logits,) in forward.logit_parts([head], [hidden]):
        wanted = logits.gather(1, targets[rows, None]).squeeze(1)
        out[rows] = logits.logsumexp(-1) - wanted
    return out
