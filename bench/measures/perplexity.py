"""Perplexity: exp of the mean cross-entropy of the next token, over windows without overlap."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bench import blocks
from bench.measures.contract import Item, Reading, Readings, Rig
from methods.contract import Needs

if TYPE_CHECKING:
    from torch import Tensor, nn

LOGITS_BYTES = 32 * 2**20
"""Of logits in memory at a time."""
BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Perplexity:
    """corpus: a name in bench.data; seqlen: tokens per window; windows: the first so many, None for all."""

    name: ClassVar[str] = "perplexity"
    needs: ClassVar[Needs] = Needs.NOTHING
    corpus: str
    seqlen: int
    windows: int | None = None
    batch: int | None = None
    split: str = "evaluation"

    @property
    def protocol(self) -> str:
        part = "" if self.split == "evaluation" else f"-{self.split}"
        return f"{self.corpus}{part}@{self.seqlen}" + (f"x{self.windows}" if self.windows else "")

    def read(self, model: Callable[[], nn.Module], rig: Rig) -> Readings:
        """
        Raises:
            UserError: the corpus has not one window, or fewer than were asked for.
        """
        tokens, clusters = blocks.windows(
            self.corpus, rig.tokenizer(), self.seqlen, self.windows, rig.data_dir, self.split
        )
        losses = window_losses(model(), tokens, self.batch or max(1, BATCH_TOKENS // self.seqlen), rig)
        targets = self.seqlen - 1
        items = tuple(
            Item(str(i), c, nll, float(targets)) for i, (c, nll) in enumerate(zip(clusters, losses, strict=True))
        )
        mean, stderr = _mean_and_stderr([x / targets for x in losses])
        ppl = math.exp(mean) if mean < 700 else math.inf
        reading = Reading(
            "perplexity", ppl, "1", "lower", stderr=ppl * stderr if stderr is not None else None, n=len(losses)
        )
        return Readings((reading,), items, tokens.numel(), blocks.token_digest(tokens))


def window_losses(model: nn.Module, tokens: Tensor, batch: int, rig: Rig) -> list[float]:
    """Summed cross-entropy of each window in nats, in float32. tokens: int64 [windows, seqlen]."""
    import torch

    backbone = model.base_model
    head = model.get_output_embeddings()  # type: ignore[operator]
    losses: list[float] = []
    with torch.inference_mode():
        for part in tokens.split(batch):
            ids = part.to(rig.compute.device)
            hidden = backbone(input_ids=ids, use_cache=False)[0][:, :-1]  # type: ignore[operator]
            losses += (
                _cross_entropy(hidden.flatten(0, 1), head, ids[:, 1:].flatten()).view(len(part), -1).sum(1).tolist()
            )
            rig.progress.advance(len(losses), len(tokens))
    return losses


def _cross_entropy(hidden: Tensor, head: nn.Module, targets: Tensor) -> Tensor:
    """Per token, in chunks of rows, so that the logits [tokens, vocabulary] never exist whole."""
    import torch

    vocabulary: int = head.weight.shape[0]  # type: ignore[assignment, index]
    rows = max(1, LOGITS_BYTES // (4 * vocabulary))
    out = torch.empty(len(targets), device=hidden.device)
    for a in range(0, len(targets), rows):
        logits = head(hidden[a : a + rows]).float()
        wanted = logits.gather(1, targets[a : a + rows, None]).squeeze(1)
        out[a : a + rows] = logits.logsumexp(-1) - wanted
    return out


def _mean_and_stderr(values: list[float]) -> tuple[float, float | None]:
    mean = math.fsum(values) / len(values)
    if len(values) < 2 or not math.isfinite(mean):
        return mean, None
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))
