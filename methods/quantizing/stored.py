"""The note of a quantizer on the storage format of its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

STORED_KEY = "stored"
"""Key of `Stored.notes()` in the notes of an Outcome."""
ACTIVATIONS_KEY = "cast_bench_activations"
"""Key in config.json with the linears whose inputs are rounded while the model runs, and the bits."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Storage format of the targets' weights, which a quantizer returns dequantized.

    Without this note a quantizer's weights count as values of the artifact's dtype.
    """

    bits: float
    """Bits of one value."""
    scale_bits: int = 16
    """Bits of one scale, with its zero point."""
    scales: int = 0
    """Number of scales of all targets together."""
    activations: int | None = None
    """Bits of the targets' inputs, rounded token by token while the model runs; None if not rounded."""
    library: str = "cast-bench"
    """Name of the library that quantized, with its version if it is not this project."""

    def notes(self) -> dict[str, Any]:
        """Return notes for an Outcome, JSON."""
        return {STORED_KEY: asdict(self)}


def int8_tokens(x: Tensor) -> Tensor:
    """Return activations [..., in] rounded to int8 per token: scale max|x| / 127, round half to even."""
    wide = x.float()
    scale = wide.abs().amax(-1, keepdim=True).div_(127)
    scale = scale.masked_fill(scale == 0, 1)
    return (wide / scale).round_().mul_(scale).to(x.dtype)


def round_inputs(module: nn.Module) -> None:
    """Round the inputs of a linear to int8 per token from now on."""
    module.register_forward_pre_hook(lambda _, args: (int8_tokens(args[0]), *args[1:]))
