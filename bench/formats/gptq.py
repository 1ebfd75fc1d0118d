"""Weights in the formats of GPTQ (AutoGPTQ, GPTQModel, auto-round) and AWQ (AutoAWQ)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from methods.contract.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Position in a word of each of its eight outputs."""


class GptqScheme:
    """w = (q - z) s. qweight int32 [in * bits / 32, out], qzeros int32 [groups, out * bits / 32],
    scales [groups, out], g_idx int32 [in]. Version 1 stores z - 1, version 2 and auto-round's
    layout for GPTQModel store z.
    """

    markers = ("qweight",)
    parts = ("qweight", "qzeros", "scales", "g_idx")

    def __init__(self, config: Mapping[str, Any]) -> None:
        """config: quantization_config."""
        bits = config.get("bits")
        if type(bits) is not int or bits not in (2, 3, 4, 8):
            raise UserError(f"GPTQ weights of bits={bits!r} cannot be read: use 2, 3, 4 or 8")
        self.bits = bits
        self.group = config.get("group_size")
        layout = str(config.get("checkpoint_format") or config.get("packing_format") or "")
        self.offset = 0 if "v2" in layout or layout == "auto_round:gptqmodel" else 1
        self.form = f"GPTQ, {self.bits} bits, {describe_group(self.group)}"

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        """Return the shape [out, in] of a weight, from the shapes of its parts."""
        rows, out = shapes["qweight"]
        return out, rows * 32 // self.bits

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return a weight [out, in] in the dtype of its scales."""
        from bench.formats.stored import unpack_rows  # imports torch

        scales = parts["scales"]
        q = unpack_rows(parts["qweight"].T, self.bits)  # [out, in]
        # [groups, out]
        zeros = unpack_rows(parts["qzeros"], self.bits)[:, : scales.shape[1]] + self.offset
        groups = parts.get("g_idx")
        groups = (
            even_groups(q.shape[1], scales.shape[0], self.group)
            if groups is None
            else groups.long()
        )
        wide = (q - zeros[groups].T).float() * scales[groups].T.float()
        return wide.to(scales.dtype)


class AwqScheme:
    """w = (q - z) s. qweight int32 [in, out / 8], qzeros int32 [groups, out / 8], scales [groups,
    out], 4 bits."""

    markers = ("qweight",)
    parts = ("qweight", "qzeros", "scales")

    def __init__(self, config: Mapping[str, Any]) -> None:
        """config: quantization_config."""
        bits, version = (
            config.get("bits", config.get("w_bit")),
            str(config.get("version", "gemm")).lower(),
        )
        if bits != 4 or version != "gemm":
            raise UserError(
                f"AWQ weights of {bits!r} bits in the version {version!r} cannot be read: use 4 "
                "bits and gemm"
            )
        self.group = config.get("group_size", config.get("q_group_size"))
        self.form = f"AWQ, 4 bits, {describe_group(self.group)}"

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        """Return the shape [out, in] of a weight, from the shapes of its parts."""
        width, words = shapes["qweight"]
        return 8 * words, width

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        """Return a weight [out, in] in the dtype of its scales."""
        scales = parts["scales"]
        # [in, out], [groups, out]
        q, zeros = (_in_order(parts[name]) for name in ("qweight", "qzeros"))
        groups = even_groups(q.shape[0], scales.shape[0], self.group)
        wide = (q - zeros[groups]).float() * scales[groups].float()
        return wide.T.contiguous().to(scales.dtype)


def _in_order(packed: Tensor) -> Tensor:
    """Unpack int32 [rows, words] of AWQ into int32 [rows, 8 * words] in the order of the
    outputs."""
    from bench.formats.stored import unpack_rows  # imports torch

    lanes: Tensor = unpack_rows(packed, 4).unflatten(-1, (-1, 8))
    return lanes[..., list(AWQ_ORDER)].flatten(-2)


def even_groups(width: int, count: int, size: Any) -> Tensor:
    """Return the group of each input, int64 [width], or raise ValueError if they are not `count`
    groups.

    size: inputs in a group; all inputs share a group if it is no positive whole number.
    """
    import torch

    groups = torch.arange(width) // (size if isinstance(size, int) and size > 0 else width)
    if int(groups[-1]) + 1 != count:
        raise ValueError(f"{width} inputs have {int(groups[-1]) + 1} groups of {size}, not {count}")
    return groups


def describe_group(size: Any) -> str:
    """Return the size of a group in words."""
    return f"groups of {size}" if isinstance(size, int) and size > 0 else "one group a row"
