"""A forward pass over windows, a batch at a time, up to the head; whole models and streamed ones alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from methods.pruning.streaming import last_hidden

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bench.measures.contract import MeasureContext

LOGITS_BYTES = 32 * 2**20
"""Of one model's logits in memory at a time."""
PART_BYTES = 2**20
"""Of that, on a CPU, at work at a time."""
BATCH_TOKENS = 4096


class ForwardPass(NamedTuple):
    """One model on all windows."""

    states: Iterable[Tensor]
    """Per batch [batch, seqlen, hidden], what the head is given; made as they are asked for, or all there."""
    head: nn.Module


def forward_windows(
    load: Callable[[], nn.Module], folder: Path, tokens: Tensor, batch: int, rig: MeasureContext
) -> ForwardPass:
    """The final hidden states of a model on windows.

    Args:
        load: returns the model, its blocks on disk where rig.compute.stream.
        folder: where they lie then.
        tokens: int64 [windows, seqlen]; batch: windows per forward.
    """
    model = load()
    head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
    if rig.compute.stream:
        return ForwardPass(last_hidden(model, folder, tokens, batch, rig.compute, rig.progress), head)
    return ForwardPass(_states(model, tokens, batch, rig), head)


def _states(model: nn.Module, tokens: Tensor, batch: int, rig: MeasureContext) -> Iterator[Tensor]:
    done = 0
    for part in tokens.split(batch):
        yield model.base_model(input_ids=part.to(rig.compute.device), use_cache=False)[0]  # type: ignore[operator]
        done += len(part)
        rig.progress.advance(done, len(tokens))


def batch_size(asked: int | None, seqlen: int) -> int:
    """Windows per forward."""
    return asked or max(1, BATCH_TOKENS // seqlen)


def logit_parts(heads: Sequence[nn.Module], states: Sequence[Tensor]) -> Iterator[tuple[slice, list[Tensor]]]:
    """Logits of a few rows at a time under each head: which rows, and float32 [rows, vocabulary] of each.

    They are made in chunks that make a matrix product worth its while, and handed on in parts that a CPU's cache holds
    through all that is asked of them.

    Args:
        states: [tokens, hidden] for each of `heads`.
    """
    row_bytes = 4 * max(head.weight.shape[0] for head in heads)  # type: ignore[index]
    rows = max(1, LOGITS_BYTES // row_bytes)
    part = min(rows, max(1, PART_BYTES // row_bytes)) if states[0].device.type == "cpu" else rows
    for a in range(0, len(states[0]), rows):
        made = [head(x[a : a + rows]) for head, x in zip(heads, states, strict=True)]
        for b in range(0, len(made[0]), part):
            parts = [logits[b : b + part].float() for logits in made]
            yield slice(a + b, a + b + len(parts[0])), parts
