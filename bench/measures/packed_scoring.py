"""Log-likelihoods of continuations. Contexts and continuations form prefix trees, so each context
runs once.

A long prefix of many contexts, such as the examples of a prompt, runs once for all trees. Its keys
and values are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench.inputs import kv_cache
from bench.measures.forward import logit_parts
from bench.measures.prefix_tree import PrefixTree, group_prefixes, grow_trees
from methods.model.families import FAMILIES
from methods.model.logits import head_of

ATTENTIONS = ("sdpa", "eager", "sdpa_kv8", "sdpa_kv4")
"""Implementations of attention that accept an additive mask, also of rounded keys and values."""
ROPES_BY_LENGTH = ("dynamic", "longrope")
"""Rotary embeddings that depend on the longest sequence in the batch."""

LEAST_PREFIX = 32
"""Tokens of the shortest prefix that runs separately."""

Pair = tuple[list[int], list[int]]
"""Tokens of a context and of the continuation after it."""


class Score(NamedTuple):
    number: int
    """Index of the pair."""
    log_likelihood: float
    greedy: bool
    """True if each token is the most likely after those before it."""


class TokenCount:
    """Counter of the tokens that go through a model, with padding."""

    def __init__(self, model: nn.Module) -> None:
        self.tokens = 0
        model.get_input_embeddings().register_forward_pre_hook(self._add)  # type: ignore[operator]

    def _add(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.tokens += args[0].numel()


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
    # Everything before the token that predicts the first of the continuation.
    contexts = [
        tokens[: len(tokens) - len(pair[1]) + 1] for tokens, pair in zip(inputs, pairs, strict=True)
    ]
    for length, members in group_prefixes(contexts, LEAST_PREFIX):
        prefix = _run_prefix(model, inputs[members[0]][:length], capacity) if length else None
        trees = grow_trees(
            [inputs[k][length:] for k in members], capacity, model.config.hidden_size
        )
        for batch in _batches(trees, capacity):
            yield from _score_batch(model, batch, [pairs[k] for k in members], members, prefix)


class _Prefix(NamedTuple):
    """Keys and values of a prefix, [1, heads, length, head size] for each block, one after the
    other."""

    length: int
    states: list[Tensor]

    def cache(self, rows: int) -> Any:
        """Return a growing cache of the prefix for a batch."""
        return kv_cache.from_tensors([state.expand(rows, -1, -1, -1) for state in self.states])


def _run_prefix(model: Any, tokens: list[int], capacity: int) -> _Prefix:
    """Run a prefix, at most `capacity` tokens in a forward pass."""
    prefix = None
    for start in range(0, len(tokens), capacity):
        tree = PrefixTree()
        tree.add(0, tokens[start : start + capacity])
        cache = prefix.cache(1) if prefix else kv_cache.from_tensors([])
        _hidden_states(model, [tree], len(tree), prefix, cache)
        prefix = _Prefix(start + len(tree), kv_cache.to_tensors(cache))
    assert prefix is not None
    return prefix


def _batches(trees: Sequence[PrefixTree], capacity: int) -> Iterator[list[PrefixTree]]:
    """Yield batches of trees in order. A batch is padded to its first tree, which is the
    largest."""
    batch: list[PrefixTree] = []
    for tree in trees:
        if batch and (len(batch) + 1) * len(batch[0]) > capacity:
            yield batch
            batch = []
        batch.append(tree)
    if batch:
        yield batch


def _score_batch(
    model: Any,
    trees: Sequence[PrefixTree],
    pairs: Sequence[Pair],
    names: Sequence[int],
    prefix: _Prefix | None,
) -> Iterator[Score]:
    """Score the pairs of trees. names: number that is returned for each pair."""
    width = len(trees[0])
    cache = prefix.cache(len(trees)) if prefix else None
    states = _hidden_states(model, trees, width, prefix, cache).flatten(0, 1)
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
            numbers.append(names[number])
    logs, greedy = _read_logits(head_of(model), states, torch.tensor(nodes), torch.tensor(targets))
    owner = torch.tensor(owners)
    sums = torch.zeros(len(numbers), dtype=torch.float64).index_add_(0, owner, logs.double())
    misses = torch.zeros(len(numbers), dtype=torch.int64).index_add_(0, owner, (~greedy).long())
    for number, total, missed in zip(numbers, sums.tolist(), misses.tolist(), strict=True):
        yield Score(number, total, not missed)


def _hidden_states(
    model: Any,
    trees: Sequence[PrefixTree],
    width: int,
    prefix: _Prefix | None = None,
    cache: Any = None,
) -> Tensor:
    """Compute the inputs of the head [trees, width, hidden]. The trees come after the prefix, whose
    cache grows by them."""
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
    before = prefix.length if prefix else 0
    depths += before
    mask = _masks(model, depths, ends, before)
    kept = kv_cache.as_argument(model.base_model, cache) if cache is not None else {}
    states: Tensor = model.base_model(
        input_ids=tokens,
        position_ids=depths,
        attention_mask=mask,
        use_cache=cache is not None,
        **kept,
    )[0]
    return states


def _masks(model: Any, depths: Tensor, ends: Tensor, before: int) -> Tensor | dict[str, Tensor]:
    """Return the additive attention mask [trees, 1, width, before + width], or one for each kind of
    layer.

    Args:
        depths, ends: [trees, width]
        before: tokens of the prefix, which every node sees.
    """
    node = torch.arange(depths.shape[1], device=depths.device)
    above = (node <= node[:, None]) & (node[:, None] < ends[:, None, :])
    above = nn.functional.pad(above, (before, 0), value=True)
    places = torch.cat(
        [torch.arange(before, device=depths.device).expand(len(depths), -1), depths], 1
    )
    config, dtype = model.config, model.dtype

    def additive(seen: Tensor) -> Tensor:
        mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]

    window = getattr(config, "sliding_window", None)
    near = above & (depths[:, :, None] - places[:, None, :] < window) if window else above
    if getattr(config, "layer_types", None):
        return {"full_attention": additive(above), "sliding_attention": additive(near)}
    return additive(near)


def _read_logits(
    head: nn.Module, states: Tensor, nodes: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
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
        first = ends[rows.start - 1] if rows.start else 0
        chosen = order[first : ends[rows.stop - 1]]
        at, wanted = (row[chosen] - rows.start).to(logits.device), targets[chosen].to(logits.device)
        # float32 like lm-eval, with the same rounding of 1e-5 a token.
        logs[chosen] = logits.log_softmax(-1)[at, wanted].cpu()
        greedy[chosen] = (logits.argmax(-1)[at] == wanted).cpu()
    return logs, greedy
