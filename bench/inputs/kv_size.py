"""Numbers that a KV cache holds, from a config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def count_cached(config: Mapping[str, Any]) -> int:
    """Return the number of values that a KV cache holds for a token."""
    layers: int = config.get("num_hidden_layers") or config["n_layer"]
    heads: int = (
        config.get("num_key_value_heads") or config.get("num_attention_heads") or config["n_head"]
    )
    return 2 * layers * heads * head_dim_of(config)


def head_dim_of(config: Mapping[str, Any]) -> int:
    """Return the number of values of a head."""
    heads = config.get("num_attention_heads") or config["n_head"]
    size: int = config.get("head_dim") or (config.get("hidden_size") or config["n_embd"]) // heads
    return size
