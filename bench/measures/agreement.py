"""Distance to the dense model on perplexity's windows: far more sensitive than perplexity where little was lost."""

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

    def read(self, model: Callable[[], nn.Module], rig: MeasureContext) -> Readings:
        """Items: a window's KL summed over its positions, and beside it how many of them agree.

        Raises:
            UserError: the corpus has not one window, or fewer than were asked for.
        """
        tokens, clusters = self.cut(rig)
        positions = self.seqlen - 1
        found = [(0.0, positions)] * len(tokens)
        if not rig.dense:
            found = window_distances(model, tokens, self.per_forward, rig)
        kl, kl_stderr = mean_and_stderr([x / positions for x, _ in found])
        same, same_stderr = mean_and_stderr([x / positions for _, x in found])
        items = tuple(
            Item(str(i), c, nats, float(positions), {"top1_agreement": float(hits)})
            for i, (c, (nats, hits)) in enumerate(zip(clusters, found, strict=True))
        )
        values = (
            Reading("kl", kl, "nats/token", "lower", stderr=kl_stderr, n=len(found)),
            Reading("top1_agreement", same, "1", "higher", stderr=same_stderr, n=len(found)),
        )
        return Readings(values, items, tokens.numel(), windows.token_digest(tokens))


def window_distances(
    model: Callable[[], nn.Module], tokens: Tensor, batch: int, rig: MeasureContext
) -> list[tuple[float, int]]:
    """Per window, the summed KL(dense || model) in nats and at how many positions the most likely token is the same.

    One model is in memory at a time: of the first the final hidden states are kept, on the CPU.
    """
    import torch

    found: list[tuple[float, int]] = []
    with torch.inference_mode():
        made = forward.forward_windows(model, rig.folder, tokens, batch, rig)
        kept = [states.cpu() for states in made.states]
        head = made.head
        del made
        dense = forward.forward_windows(rig.reference, rig.source, tokens, batch, rig)
        for ours, theirs in zip(kept, dense.states, strict=True):
            p, q = (x[:, :-1].to(rig.compute.device).flatten(0, 1) for x in (theirs, ours))
            kl, same = _compare(p, dense.head, q, head)
            rows = kl.view(len(ours), -1).sum(1).tolist(), same.view(len(ours), -1).sum(1).tolist()
            found += zip(*rows, strict=True)
    return found


def _compare(dense: Tensor, dense_head: nn.Module, ours: Tensor, head: nn.Module) -> tuple[Tensor, Tensor]:
    """Per token, in chunks of rows: KL in nats, float64 so that the sum over a window loses nothing; and agreement."""
    import torch

    kl = torch.empty(len(dense), dtype=torch.float64, device=dense.device)
    same = torch.empty(len(dense), dtype=torch.bool, device=dense.device)
    for rows, (p, q) in forward.logit_parts([dense_head, head], [dense, ours]):
        same[rows] = p.argmax(-1) == q.argmax(-1)
        p, q = p.log_softmax(-1), q.log_softmax(-1)
        kl[rows] = (p.exp() * (p - q)).sum(-1).double()
    return kl, same
