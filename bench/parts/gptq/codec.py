"""Codecs of GPTQ and AWQ: codes and zero points packed into words of 32 bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.formats.quantized import FolderCodec, describe_group, even_groups
from bench.formats.stored import pack_rows, unpack_rows
from methods.contract.errors import UserError

AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Position in a word of each of its eight outputs."""


class GptqCodec(FolderCodec):
    """w = (q - z) s. qweight int32 [in * bits / 32, out], qzeros int32 [groups, out * bits / 32],
    scales [groups, out], g_idx int32 [in]. Version 1 stores z - 1, version 2 and auto-round's
    layout for GPTQModel store z.
    """

    name = "gptq"
    widths: ClassVar[tuple[int, ...]] = (2, 3, 4, 8)
    """Bits of a code that the format has."""
    markers = ("qweight",)
    parts: ClassVar[tuple[str, ...]] = ("qweight", "qzeros", "scales", "g_idx")
    values = ("qweight",)

    def check(self) -> None:
        bits = self.config.get("bits")
        if type(bits) is not int or bits not in self.widths:
            raise UserError(f"GPTQ weights of bits={bits!r} cannot be read: use 2, 3, 4 or 8")

    @property
    def width(self) -> int:
        """Bits of a code."""
        return int(self.config["bits"])

    @property
    def group(self) -> Any:
        """Number of inputs that share a scale; all, if it is no positive number."""
        return self.config.get("group_size")

    @property
    def form(self) -> str:
        return f"GPTQ, {self.width} bits, {describe_group(self.group)}"

    @property
    def offset(self) -> int:
        """Difference of a zero point from the number that is stored for it."""
        layout = str(self.config.get("checkpoint_format") or self.config.get("packing_format"))
        return 0 if "v2" in layout or layout == "auto_round:gptqmodel" else 1

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        rows, out = shapes["qweight"]
        return out, rows * 32 // self.width

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        scales = parts["scales"].float()
        codes = unpack_rows(parts["qweight"].T, self.width)  # [out, in]
        zeros = unpack_rows(parts["qzeros"], self.width)[:, : scales.shape[1]] + self.offset
        groups = parts.get("g_idx")
        if groups is None:
            groups = even_groups(codes.shape[1], len(scales), self.group)
        groups = groups.long()
        weight: Tensor = (codes - zeros[groups].T).float() * scales[groups].T
        return weight

    def encode(self, codes: Tensor, scales: Tensor, name: str) -> dict[str, Tensor]:
        """Return the parts of a weight whose zero point is 2^(bits - 1).

        codes: uint8 [out, in]; scales: [out, groups], stored in float16; name: of the linear, for
        the error if its sides do not fill words.
        """
        outputs, inputs = codes.shape
        _require_words(inputs, self.width, f"{name} has {inputs} inputs")
        _require_words(outputs, self.width, f"{name} has {outputs} outputs")
        return {
            "qweight": pack_rows(codes, self.width).T.contiguous(),
            "qzeros": self._zeros(scales),
            "scales": scales.T.half().contiguous(),
            "g_idx": (torch.arange(inputs) // (inputs // scales.shape[1])).int(),
        }

    def _zeros(self, scales: Tensor) -> Tensor:
        zero = 2 ** (self.width - 1) - self.offset
        return pack_rows(torch.full(scales.T.shape, zero, dtype=torch.uint8), self.width)


class AwqCodec(GptqCodec):
    """w = (q - z) s, for AutoAWQ's kernel gemm. qweight int32 [in, out / 8], qzeros int32 [groups,
    out / 8], scales [groups, out], 4 bits."""

    name = "awq"
    widths = (4,)
    parts = ("qweight", "qzeros", "scales")
    offset = 0

    width = 4

    def check(self) -> None:
        bits = self.config.get("bits", self.config.get("w_bit"))
        version = str(self.config.get("version", "gemm")).lower()
        if bits != 4 or version != "gemm":
            raise UserError(
                f"AWQ weights of {bits!r} bits in the version {version!r} cannot be read: use 4 "
                "bits and gemm"
            )

    @property
    def group(self) -> Any:
        return self.config.get("group_size", self.config.get("q_group_size"))

    @property
    def form(self) -> str:
        return f"AWQ, 4 bits, {describe_group(self.group)}"

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        width, words = shapes["qweight"]
        return 8 * words, width

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        scales = parts["scales"].float()
        codes = _in_order(parts["qweight"])  # [in, out]
        zeros = _in_order(parts["qzeros"])  # [groups, out]
        groups = even_groups(len(codes), len(scales), self.group)
        return ((codes - zeros[groups]).float() * scales[groups]).T.contiguous()

    def encode(self, codes: Tensor, scales: Tensor, name: str) -> dict[str, Tensor]:
        _require_words(len(codes), self.width, f"{name} has {len(codes)} outputs")
        lanes = torch.tensor(AWQ_ORDER).argsort()
        words: Tensor = codes.T.unflatten(1, (-1, 8))[..., lanes].flatten(1)
        return {
            "qweight": pack_rows(words, self.width),
            "qzeros": self._zeros(scales),
            "scales": scales.T.half().contiguous(),
        }


def _in_order(packed: Tensor) -> Tensor:
    """Unpack int32 [rows, words] of AWQ into int32 [rows, 8 * words] in the order of the
    outputs."""
    lanes: Tensor = unpack_rows(packed, 4).unflatten(-1, (-1, 8))
    return lanes[..., list(AWQ_ORDER)].flatten(-2)


def _require_words(count: int, bits: int, what: str) -> None:
    if count * bits % 32:
        raise UserError(
            f"{what}, and {bits} bits of each do not fill words of 32 bits: use --format hf"
        )
