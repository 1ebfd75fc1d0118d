"""KV caches of transformers: pass one to a model, make a static one, convert to tensors and back."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import DynamicCache, StaticCache


def as_argument(model: Any, cache: Any) -> dict[str, Any]:
    """Return a cache as a keyword argument of a model. transformers 5.24 renamed the argument."""
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    return {name: cache}


def make_static(model: Any, length: int) -> Any:
    """Return a cache for `length` tokens with a fixed size and address."""
    return StaticCache(config=model.config, max_cache_len=length)


def rewind(cache: Any, tokens: int) -> None:
    """Remove the last tokens from a static cache. It changes the counters in place, so a CUDA graph can contain it."""
    for layer in cache.layers:
        layer.cumulative_length.sub_(tokens)


def from_tensors(tensors: Sequence[Tensor]) -> Any:
    """Return a growing cache. tensors: key and value of each block, [batch, heads, past, head size]."""
    return DynamicCache(list(zip(tensors[::2], tensors[1::2], strict=True)))


def to_tensors(cache: Any) -> list[Tensor]:
    """Return key and value of each block of a cache, [batch, heads, past, head size]."""
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
