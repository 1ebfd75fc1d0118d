"""What a quantizer says beside the weights it hands back: how they would be stored."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

NOTE = "stored"
"""The key of an Outcome's notes under which a quantizer leaves its `Stored.told()`."""
ACTIVATIONS = "cast_bench_activations"
"""The key of a config.json that says which linears' inputs are rounded while the model runs, and to how many bits."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """How the targets' weights, handed back dequantized, would lie in memory.

    A quantizer that does not say is counted as what it handed back: values of the artifact's dtype.
    """

    bits: float
    """Of one value."""
    scale_bits: int = 16
    """Of one scale, its zero point counted in."""
    scales: int = 0
    """Of all targets together."""
    activations: int | None = None
    """Bits of the targets' inputs, rounded token by token while the model runs; None leaves them alone."""
    library: str = "cast-bench"
    """Whose code made it, with its version where it is not ours."""

    def told(self) -> dict[str, Any]:
        """As notes: JSON."""
        return {NOTE: asdict(self)}


def int8_tokens(x: Tensor) -> Tensor:
    """Activations [..., in] on an int8 grid of their own per token: scale max|x| / 127, nearest even."""
    wide = x.float()
    scale = wide.abs().amax(-1, keepdim=True).div_(127)
    scale = scale.masked_fill(scale == 0, 1)
    return (wide / scale).round_().mul_(scale).to(x.dtype)


def round_inputs(module: nn.Module) -> None:
    """From now on a linear sees its inputs as int8 per token."""
    module.register_forward_pre_hook(lambda _, args: (int8_tokens(args[0]), *args[1:]))
