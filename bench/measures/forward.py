"""Forward passes over windows, batch by batch, up to the output head, for whole and for streamed
models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.measures.contract import MeasureContext

LOGITS_BYTES = 256 * 2**20
"""Bytes of one model's logits in memory at a time. Heads of large vocabularies are slow on a CPU in
fewer rows."""
PART_BYTES = 2**20
"""Bytes of these logits that a CPU processes at a time."""
BATCH_TOKENS = 4096
"""Default number of tokens in a forward pass."""


class ForwardPass(NamedTuple):
    """Pass of one model over all windows."""

    states: Iterable[Tensor]
    """Inputs of the head for each batch [batch, seqlen, hidden], stored or computed during
    iteration."""
    head: nn.Module


def forward_windows(
    load: Callable[[], nn.Module], folder: Path, tokens: Tensor, batch: int, context: MeasureContext
) -> ForwardPass:
    """Compute the final hidden states of a model on windows, int64 [windows, seqlen], `batch` in a
    forward pass.

    load: returns the model, without its blocks if `context.compute.stream`. folder: contains the
    blocks in that case.
    """
    from methods.model.logits import head_of  # imports torch

    model = load()
    head = head_of(model)
    if context.compute.stream:
        from methods.workshop.pruning.streaming import last_hidden  # imports torch

        return ForwardPass(
            last_hidden(model, folder, tokens, batch, context.compute, context.progress), head
        )
    return ForwardPass(_states(model, tokens, batch, context), head)


def _states(
    model: nn.Module, tokens: Tensor, batch: int, context: MeasureContext
) -> Iterator[Tensor]:
    done = 0
    for part in tokens.split(batch):
        yield model.base_model(input_ids=part.to(context.compute.device), use_cache=False)[0]  # type: ignore[operator]
        done += len(part)
        context.progress.advance(done, len(tokens))


def logit_parts(
    heads: Sequence[nn.Module], states: Sequence[Tensor]
) -> Iterator[tuple[slice, list[Tensor]]]:
    """Yield a few rows at a time: their slice, and their logits from each head in float32 [rows,
    vocabulary].

    A chunk is large enough for a fast matrix product. On a CPU it is split into parts that fit in
    the processor's cache.

    states: [tokens, hidden] for each of `heads`.
    """
    row_bytes = 4 * max(head.weight.shape[0] for head in heads)  # type: ignore[index]
    rows = max(1, LOGITS_BYTES // row_bytes)
    part = min(rows, max(1, PART_BYTES // row_bytes)) if states[0].device.type == "cpu" else rows
    for a in range(0, len(states[0]), rows):
        chunks = [head(x[a : a + rows]) for head, x in zip(heads, states, strict=True)]
        for b in range(0, len(chunks[0]), part):
            parts = [logits[b : b + part].float() for logits in chunks]
            yield slice(a + b, a + b + len(parts[0])), parts
