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
    """exp of the mean cross-entropy of the next token; a window's first token is not predicted."""

    name: ClassVar[str] = "perplexity"

    def read(self, model: Callable[[], nn.Module], context: MeasureContext) -> Readings:
        """Items: each window's summed cross-entropy in nats.

        Raises:
            UserError: the corpus has no window, or fewer than were asked for.
        """
        tokens, clusters = self.cut(context)
        forward_pass = forward.forward_windows(model, context.folder, tokens, self.per_forward, context)
        losses = window_losses(forward_pass, tokens, context)
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


def window_losses(
    forward_pass: forward.ForwardPass,
    tokens: Tensor,
    context: MeasureContext,
    *,
    logits_bytes: int = forward.LOGITS_BYTES,
    part_bytes: int = forward.PART_BYTES,
) -> list[float]:
    """Summed cross-entropy of each window in nats, in float32. tokens: int64 [windows, seqlen]."""
    import torch  # slow to import

    losses: list[float] = []
    with torch.inference_mode():
        for states in forward_pass.states:
            ids = tokens[len(losses) : len(losses) + len(states)].to(context.compute.device)
            hidden = states[:, :-1].to(context.compute.device).flatten(0, 1)
            targets = ids[:, 1:].flatten()
            # In chunks of rows, so that the logits [tokens, vocabulary] never exist whole.
            loss = torch.empty(len(targets), device=hidden.device)
            for rows, (logits,) in forward.logit_parts(
                [forward_pass.head], [hidden], logits_bytes=logits_bytes, part_bytes=part_bytes
            ):
                target_logits = logits.gather(1, targets[rows, None]).squeeze(1)
                loss[rows] = logits.logsumexp(-1) - target_logits
            losses += loss.view(len(ids), -1).sum(1).tolist()
    return losses
