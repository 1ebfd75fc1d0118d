"""Rounding of the inputs of linears while a model runs, and the keys of config.json that say so."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

ACTIVATIONS_KEY = "cast_bench_activations"
"""Key in config.json with the linears whose inputs are rounded while the model runs, and the
format."""
CACHE_KEY = "cast_bench_cache"
"""Key in config.json with the bits to which keys and values are rounded while the model runs."""


def _scale(wide: Tensor, top: float) -> Tensor:
    """Return max|x| / top of each token, [..., 1]; 1 if all are zero. wide: float [..., in]."""
    scale = wide.abs().amax(-1, keepdim=True).div_(top)
    return scale.masked_fill(scale == 0, 1)


def int8_tokens(x: Tensor) -> Tensor:
    """Return activations [..., in] rounded to int8 per token: scale max|x| / 127, round half to
    even."""
    wide = x.float()
    scale = _scale(wide, 127)
    return (wide / scale).round_().mul_(scale).to(x.dtype)


def mxfp4_tokens(x: Tensor, most: int = 32) -> Tensor:
    """Return activations [..., in] rounded to MXFP4, in groups of `most` inputs, or of a smaller
    power of two that divides."""
    from methods.workshop.quantizing.grids import Microscaling

    grid, groups = Microscaling(4), x.float().unflatten(-1, (-1, math.gcd(most, x.shape[-1])))
    return grid.snap(groups, grid.scale(groups)).flatten(-2).to(x.dtype)


def nvfp4_tokens(x: Tensor, most: int = 16) -> Tensor:
    """Return activations [..., in] rounded to NVFP4, in groups of `most` inputs, or of a smaller
    power of two that divides.

    The scale in float32 is of each token.
    """
    from methods.workshop.quantizing.grids import NvFloat4

    wide = x.float()
    largest = wide.abs().amax(-1, keepdim=True)
    grid = NvFloat4(tensor_scale=1 / (6 * 448))  # of values up to 1
    groups = (wide / largest.masked_fill(largest == 0, 1)).unflatten(
        -1, (-1, math.gcd(most, x.shape[-1]))
    )
    return grid.snap(groups, grid.scale(groups)).flatten(-2).mul_(largest).to(x.dtype)


def wide_int8_tokens(x: Tensor) -> Tensor:
    """Return activations [..., in] rounded as compressed-tensors does: scale max|x| / 127.5, cut
    off at 127."""
    wide = x.float()
    scale = _scale(wide, 127.5)
    return (wide / scale).round_().clamp_(-128, 127).mul_(scale).to(x.dtype)


def float8_tokens(x: Tensor) -> Tensor:
    """Return activations [..., in] rounded to float8 e4m3 per token: scale max|x| / 448."""
    import torch

    kind = torch.float8_e4m3fn
    wide = x.float()
    scale = _scale(wide, torch.finfo(kind).max)
    return (wide / scale).to(kind).float().mul_(scale).to(x.dtype)


INPUT_FORMATS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "int8": int8_tokens,
    "wide_int8": wide_int8_tokens,
    "float8": float8_tokens,
    "mxfp4": mxfp4_tokens,
    "nvfp4": nvfp4_tokens,
    "mxfp4-pairs": partial(mxfp4_tokens, most=64),
    "nvfp4-pairs": partial(nvfp4_tokens, most=32),
}
"""Functions that round the inputs of linears while the model runs, by the format's name."""


def round_inputs(module: nn.Module, form: str = "int8") -> None:
    """Round the inputs of a linear from now on. form: a key of INPUT_FORMATS."""
    rounded = INPUT_FORMATS[form]
    module.register_forward_pre_hook(lambda _, args: (rounded(args[0]), *args[1:]))
