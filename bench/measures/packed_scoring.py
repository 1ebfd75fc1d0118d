"""Log-likelihoods of continuations. Contexts and continuations form prefix trees, so each context runs once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.measures.forward import logit_parts
from bench.measures.prefix_tree import PrefixTree, grow_trees
from methods.families import FAMILIES
from methods.logits import head_of

ATTENTIONS = ("sdpa", "eager")
"""Implementations of attention that accept an additive mask."""
ROPES_BY_LENGTH = ("dynamic", "longrope")
"""Rotary embeddings that depend on the longest sequence in the batch."""

Pair = tuple[list[int], list[int]]
"""Tokens of a context and of the continuation after it."""


class Score(NamedTuple):
    number: int
    """Index of the pair."""
    log_likelihood: float
    greedy: bool
    """True if each token is the most likely after those before it."""


def find_obstacle(model: Any) -> str | None:
    """Return why continuations cannot be packed for this model, or None."""
    config = model.config
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if config.model_type not in FAMILIES:
        return f"architecture {config.model_type}"
    if config._attn_implementation not in ATTENTIONS:
        return f"attention {config._attn_implementation}"
    return f"rope {rope}" if rope in ROPES_BY_LENGTH else None


@torch.inference_mode()
def score(model: Any, pairs: Sequence[Pair], max_length: int, capacity: int) -> Iterator[Score]:
    """Score continuations in any order. Compute logits only at the tokens to predict.

    Args:
        model: in eval mode, and `find_obstacle` returns None for it.
        pairs: neither part is empty.
        max_length: tokens that the model sees. Longer contexts are cut on the left.
        capacity: tokens in a forward pass, with padding. A longer single sequence has its own pass.
    """
    inputs = [(context + continuation)[:-1][-max_length:] for context, continuation in pairs]
    trees = grow_trees(inputs, capacity, model.config.hidden_size)
    for batch in _batches(trees, capacity):
        yield from _score_batch(model, batch, pairs)


def _batches(trees: Sequence[PrefixTree], capacity: int) -> Iterator[list[PrefixTree]]:
    """Yield batches of trees in order. A batch is padded to its first tree, which is the largest."""
    batch: list[PrefixTree] = []
    for tree in trees:
        if batch and (len(batch) + 1) * len(batch[0]) > capacity:
            yield batch
            batch = []
        batch.append(tree)
    if batch:
        yield batch


def _score_batch(model: Any, trees: Sequence[PrefixTree], pairs: Sequence[Pair]) -> Iterator[Score]:
    width = len(trees[0])
    states = _hidden_states(model, trees, width).flatten(0, 1)
    numbers: list[int] = []
    nodes: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    for row, tree in enumerate(trees):
        for number, path in tree.paths.items():
            _, predicted = pairs[number]
            nodes += [row * width + node for node in path[-len(predicted) :]]
            targets += predicted
            owners += [len(numbers)] * len(predicted)
            numbers.append(number)
    logs, greedy = _read_logits(head_of(model), states, torch.tensor(nodes), torch.tensor(targets))
    owner = torch.tensor(owners)
    sums = torch.zeros(len(numbers), dtype=torch.float64).index_add_(0, owner, logs.double())
    misses = torch.zeros(len(numbers), dtype=torch.int64).index_add_(0, owner, (~greedy).long())
    for number, total, missed in zip(numbers, sums.tolist(), misses.tolist(), strict=True):
        yield Score(number, total, not missed)


def _hidden_states(model: Any, trees: Sequence[PrefixTree], width: int) -> Tensor:
    """Compute the inputs of the head [trees, width, hidden]."""
    device = model.device
    tokens, depths, ends = torch.zeros(3, len(trees), width, dtype=torch.int64)
    # Padding sees itself.
    ends += torch.arange(1, width + 1)
    for row, tree in enumerate(trees):
        size = len(tree)
        tokens[row, :size] = torch.tensor(tree.tokens)
        depths[row, :size] = torch.tensor(tree.depths)
        ends[row, :size] = torch.tensor(tree.ends)
    tokens, depths, ends = tokens.to(device), depths.to(device), ends.to(device)
    mask = _masks(model, depths, ends)
    states: Tensor = model.base_model(input_ids=tokens, position_ids=depths, attention_mask=mask, use_cache=False)[0]
    return states


def _masks(model: Any, depths: Tensor, ends: Tensor) -> Tensor | dict[str, Tensor]:
    """Return the additive attention mask [trees, 1, width, width], or one for each kind of layer.

    Args:
        depths, ends: [trees, width]
    """
    node = torch.arange(depths.shape[1], device=depths.device)
    above = (node <= node[:, None]) & (node[:, None] < ends[:, None, :])
    config, dtype = model.config, model.dtype

    def additive(seen: Tensor) -> Tensor:
        mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]

    window = getattr(config, "sliding_window", None)
    near = above & (depths[:, :, None] - depths[:, None, :] < window) if window else above
    if getattr(config, "layer_types", None):
        return {"full_attention": additive(above), "sliding_attention": additive(near)}
    return additive(near)


def _read_logits(head: nn.Module, states: Tensor, nodes: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return ln p of each target in float32, and whether it is the most likely token, on the CPU.

    Args:
        states: [nodes of the batch, hidden]
        nodes, targets: [n], on the CPU.
    """
    used, row = nodes.unique(return_inverse=True)
    order = row.argsort()
    ends = torch.bincount(row).cumsum(0).tolist()
    logs = torch.empty(len(nodes))
    greedy = torch.empty(len(nodes), dtype=torch.bool)
    for rows, (logits,) in logit_parts([head], [states[used.to(states.device)]]):
        chosen = order[ends[rows.start - 1] if rows.start else 0 : ends[rows.stop - 1]]
        at, wanted = (row[chosen] - rows.start).to(logits.device), targets[chosen].to(logits.device)
        # float32 like lm-eval, with the same rounding of 1e-5 a token.
        logs[chosen] = logits.log_softmax(-1)[at, wanted].cpu()
        greedy[chosen] = (logits.argmax(-1)[at] == wanted).cpu()
    return logs, greedy
