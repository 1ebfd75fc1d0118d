"""Attention whose keys and values are rounded as a cache of fewer bits would store them."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

from methods.contract.errors import UserError
from methods.workshop.quantizing.grids import Integer

GROUPS = {8: 0, 4: 32}
"""Values that share a scale, by the number of bits; 0: all of a head."""


def round_cache(model: nn.Module, bits: int) -> None:
    """Round the keys and values of all attentions of a model from now on, or raise UserError if it
    has another attention.

    Each value is rounded by itself, so a pass over a whole window gives what token by token
    decoding with such a cache gives.
    """
    config: Any = model.config
    if config._attn_implementation != "sdpa":
        raise UserError(
            f"kv{bits} needs the attention `sdpa`, and {config.model_type} runs with "
            f"{config._attn_implementation}: use another model"
        )
    name = f"sdpa_kv{bits}"

    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        return sdpa_attention_forward(
            module, query, rounded(key, bits), rounded(value, bits), *args, **kwargs
        )

    AttentionInterface.register(name, attention)
    AttentionMaskInterface.register(name, sdpa_mask)
    config._attn_implementation = name


def rounded(x: Tensor, bits: int) -> Tensor:
    """Round keys or values [..., head_dim] to integers, with a scale in bfloat16 for each group of
    each token and head."""
    grid, width = Integer(bits), x.shape[-1]
    groups = x.float().unflatten(-1, (-1, math.gcd(width, GROUPS[bits] or width)))
    return grid.snap(groups, grid.scale(groups)).flatten(-2).to(x.dtype)
