"""KV caches of transformers: how a model takes one, one that does not grow, and one from tensors and back."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import DynamicCache, StaticCache


def as_argument(model: Any, cache: Any) -> dict[str, Any]:
    """The keyword argument with which a model takes a cache. transformers 5.24 renamed it."""
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    return {name: cache}


def make_static(model: Any, length: int) -> Any:
    """A cache for `length` tokens that neither grows nor moves."""
    return StaticCache(config=model.config, max_cache_len=length)


def rewind(cache: Any, tokens: int) -> None:
    """Remove the last tokens from a static cache. Only its counters change, in place, so that a CUDA graph can do it."""
    for layer in cache.layers:
        layer.cumulative_length.sub_(tokens)


def from_tensors(tensors: Sequence[Tensor]) -> Any:
    """A cache that grows. tensors: key, value of each block, [batch, heads, past, head size]."""
    return DynamicCache(list(zip(tensors[::2], tensors[1::2], strict=True)))


def to_tensors(cache: Any) -> list[Tensor]:
    """key, value of each block of a cache, [batch, heads, past, head size]."""
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
