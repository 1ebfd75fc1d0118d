"""KV caches of transformers: pass one to a model, make a static one, convert to tensors and
back."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import StaticLayer


def as_argument(model: Any, cache: Any) -> dict[str, Any]:
    """Return a cache as a keyword argument of a model. transformers 5.24 renamed the argument."""
    name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
    return {name: cache}


def make_static(model: Any, length: int) -> Any:
    """Return a cache for `length` tokens with a fixed size and address."""
    return StaticCache(config=model.config, max_cache_len=length)


def make_full(model: Any, length: int) -> Any:
    """Return a static cache whose layers all hold `length` tokens, those with a sliding window too:
    the mask hides the rest."""
    cache = make_static(model, length)
    cache.layers = [StaticLayer(length) for _ in cache.layers]
    return cache


def hold(model: Any, tensors: Sequence[Tensor], position: Tensor) -> Any:
    """Return a static cache that writes to tensors, as of `to_tensors`, from a position, int64 [],
    on."""
    cache = make_full(model, tensors[0].shape[2])
    for layer, keys, values in zip(cache.layers, tensors[::2], tensors[1::2], strict=True):
        layer.keys, layer.values, layer.device, layer.is_initialized = (
            keys,
            values,
            keys.device,
            True,
        )
        layer.cumulative_length = position.clone()
    return cache


def rewind(cache: Any, tokens: int) -> None:
    """Remove the last tokens from a static cache. It changes the counters in place, so a CUDA graph
    can contain it."""
    for layer in cache.layers:
        layer.cumulative_length.sub_(tokens)
        if hasattr(layer, "cumulative_length_int"):  # of a sliding window, which counts twice
            layer.cumulative_length_int -= tokens


def from_tensors(tensors: Sequence[Tensor]) -> Any:
    """Return a growing cache. tensors: key and value of each block, [batch, heads, past, head
    size]."""
    return DynamicCache(list(zip(tensors[::2], tensors[1::2], strict=True)))


def to_tensors(cache: Any) -> list[Tensor]:
    """Return key and value of each block of a cache, [batch, heads, past, head size]."""
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
