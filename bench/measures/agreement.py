"""Distance to the dense model on perplexity's windows: more sensitive than perplexity where little was lost."""

from __future__ import annotations

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
class Agreement(Windowed):
    """KL(dense || compressed) of the next token, and how often both have the same most likely one."""

    name: ClassVar[str] = "agreement"

    def read(self, model: Callable[[], nn.Module], context: MeasureContext) -> Readings:
        """Items: a window's KL summed over its positions, and at how many positions both agree.

        Raises:
            UserError: the corpus has no window, or fewer than were asked for.
        """
        tokens, clusters = self.cut(context)
        positions = self.seqlen - 1
        distances = [(0.0, positions)] * len(tokens)
        if not context.is_dense:
            distances = window_distances(model, tokens, self.per_forward, context)
        kl, kl_stderr = mean_and_stderr([x / positions for x, _ in distances])
        same, same_stderr = mean_and_stderr([x / positions for _, x in distances])
        items = tuple(
            Item(str(i), c, nats, float(positions), {"top1_agreement": float(hits)})
            for i, (c, (nats, hits)) in enumerate(zip(clusters, distances, strict=True))
        )
        values = (
            Reading("kl", kl, "nats/token", "lower", stderr=kl_stderr, n=len(distances)),
            Reading("top1_agreement", same, "1", "higher", stderr=same_stderr, n=len(distances)),
        )
        return Readings(values, items, tokens.numel(), windows.token_digest(tokens))


def window_distances(
    model: Callable[[], nn.Module],
    tokens: Tensor,
    batch: int,
    context: MeasureContext,
    *,
    logits_bytes: int = forward.LOGITS_BYTES,
    part_bytes: int = forward.PART_BYTES,
) -> list[tuple[float, int]]:
    """Per window, KL(dense || model) in nats summed over positions, and at how many positions the top token is the same.

    One model is in memory at a time: of the first only the final hidden states stay, on the CPU.
    """
    import torch  # slow to import

    distances: list[tuple[float, int]] = []
    with torch.inference_mode():
        compressed = forward.forward_windows(model, context.folder, tokens, batch, context)
        stored_states = [states.cpu() for states in compressed.states]
        head = compressed.head
        del compressed
        dense = forward.forward_windows(context.load_dense, context.source, tokens, batch, context)
        for ours, theirs in zip(stored_states, dense.states, strict=True):
            p_states, q_states = (x[:, :-1].to(context.compute.device).flatten(0, 1) for x in (theirs, ours))
            # KL in float64, so that the sum over a window loses nothing.
            kl = torch.empty(len(p_states), dtype=torch.float64, device=p_states.device)
            same = torch.empty(len(p_states), dtype=torch.bool, device=p_states.device)
            for rows, (p, q) in forward.logit_parts(
                [dense.head, head], [p_states, q_states], logits_bytes=logits_bytes, part_bytes=part_bytes
            ):
                same[rows] = p.argmax(-1) == q.argmax(-1)
                p, q = p.log_softmax(-1), q.log_softmax(-1)
                kl[rows] = (p.exp() * (p - q)).sum(-1).double()
            per_window = kl.view(len(ours), -1).sum(1).tolist(), same.view(len(ours), -1).sum(1).tolist()
            distances += zip(*per_window, strict=True)
    return distances
