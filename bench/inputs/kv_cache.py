"""A KV cache of transformers from tensors, and back, for graphs whose inputs and outputs are tensors only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import DynamicCache


def from_tensors(tensors: Sequence[Tensor]) -> Any:
    """A cache that grows, for `past_key_values`. tensors: key, value of each block, [batch, heads, past, head size]."""
    return DynamicCache(list(zip(tensors[::2], tensors[1::2], strict=True)))


def to_tensors(cache: Any) -> list[Tensor]:
    """key, value of each block of a cache, [batch, heads, past, head size]."""
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
