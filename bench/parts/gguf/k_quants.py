"""K-quants and i-quants of llama.cpp with an importance matrix, by its own code (extra
`llamacpp`).

An i-quant rounds to points of a fixed codebook, or to a table of 16 values.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from methods.contract.errors import UserError
from methods.contract.info import MethodInfo
from methods.contract.method import Job, Needs, Outcome
from methods.workshop.library_calls import import_library
from methods.workshop.pruning.walk import Walk

INSTEAD = {
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
    "IQ2_XXS": "IQ4_NL",
    "IQ2_XS": "IQ4_NL",
    "IQ3_XXS": "IQ4_NL",
    "IQ3_S": "IQ4_NL",
    "IQ4_XS": "IQ4_NL",
    "IQ4_NL": "IQ4_NL",
}
"""Type that llama.cpp takes for rows that are no whole number of blocks of 256, as in
llama-cpp-python 0.3.36."""


def add_squares(x: Tensor, total: Tensor | None) -> Tensor:
    """Add the squares of each input feature, and count tokens in the last place. [tokens, in] ->
    [in + 1]"""
    squares = torch.cat([x.float().square().sum(0), x.new_tensor([float(len(x))]).float()])
    return squares if total is None else total.add_(squares)


@dataclass(frozen=True)
class Q4K:
    """Q4_K of llama.cpp: 4 bits, with scales and offsets in 6 bits of 32 weights.

    Rows that are no multiple of 256 get llama.cpp's own type for them, Q5_0. A weight's error
    counts by the mean square of its input, as in llama.cpp's importance matrix. Zeros are not kept.
    importance: use it, or weigh as llama.cpp does without.
    """

    name: ClassVar[str] = "q4_k"
    needs: ClassVar[Needs] = Needs.CALIBRATION
    info: ClassVar[MethodInfo] = MethodInfo(paper="none", extra="llamacpp")
    importance: bool = True

    def apply(self, model: nn.Module, job: Job) -> Outcome:
        import_library("llama_cpp", "llamacpp")
        walk = Walk(model, job, add_squares)
        for visit in walk:
            importance = visit.stat[:-1] / visit.stat[-1].clamp(min=1) if self.importance else None
            kind = type_for(self.name, visit.weight.shape[1])
            data = quantize(visit.weight.float().cpu(), kind, importance)
            visit.store(GgmlCodec(kind), {"blocks": torch.from_numpy(data)})
        return walk.outcome()


@dataclass(frozen=True)
class GgmlCodec:
    """Blocks of a type of GGUF: `blocks`, uint8 [out, bytes of a row]."""

    name: ClassVar[str] = "ggml"
    bits: ClassVar[Mapping[str, int]] = {}
    type: str
    """Name of the type, such as Q4_K."""

    def __str__(self) -> str:
        return self.type

    def decode(self, parts: Mapping[str, Tensor]) -> Tensor:
        return dequantize(parts["blocks"].numpy(), self.type)


class Q2K(Q4K):
    """Q2_K of llama.cpp: 2 bits, with scales and offsets in 4 bits of 16 weights. Else as q4_k,
    with Q4_0."""

    name = "q2_k"


class Q3K(Q4K):
    """Q3_K of llama.cpp: 3 bits, with scales in 6 bits of 16 weights. Else as q4_k, with Q4_0."""

    name = "q3_k"


class Q5K(Q4K):
    """Q5_K of llama.cpp: 5 bits, with scales and offsets in 6 bits of 32 weights. Else as q4_k,
    with Q5_1."""

    name = "q5_k"


class Q6K(Q4K):
    """Q6_K of llama.cpp: 6 bits, with scales in 8 bits of 16 weights. Else as q4_k, with Q8_0."""

    name = "q6_k"


class Iq2Xxs(Q4K):
    """IQ2_XXS of llama.cpp: 2.06 bits; 8 weights are one of 256 points, with signs beside it.

    Rows that are no multiple of 256 get IQ4_NL, of 4.5 bits. Zeros are not kept. importance: must
    be true, as llama.cpp makes this type with an importance matrix alone.
    """

    name = "iq2_xxs"

    def __post_init__(self) -> None:
        if not self.importance:
            raise ValueError(
                "importance=false: llama.cpp makes this type with an importance matrix alone: "
                "leave the setting out, or use iq3_xxs"
            )


class Iq2Xs(Iq2Xxs):
    """IQ2_XS of llama.cpp: 2.31 bits; 8 weights are one of 512 points. Else as iq2_xxs."""

    name = "iq2_xs"


class Iq3Xxs(Q4K):
    """IQ3_XXS of llama.cpp: 3.06 bits; 4 weights are one of 256 points. Else as q4_k, with
    IQ4_NL."""

    name = "iq3_xxs"


class Iq3S(Q4K):
    """IQ3_S of llama.cpp: 3.44 bits; 4 weights are one of 512 points. Else as q4_k, with IQ4_NL."""

    name = "iq3_s"


class Iq4Xs(Q4K):
    """IQ4_XS of llama.cpp: 4.25 bits; a table of 16 values, with scales in 6 bits of 32 weights.
    Else as q4_k, with IQ4_NL."""

    name = "iq4_xs"


class Iq4Nl(Q4K):
    """IQ4_NL of llama.cpp: 4.5 bits; a table of 16 values, with scales in 16 bits of 32 weights.
    Else as q4_k, for rows of any multiple of 32."""

    name = "iq4_nl"


def type_for(name: str, width: int) -> str:
    """Return the type of rows of `width` weights, as llama.cpp chooses it. Raise UserError if no
    type fits."""
    if width % 32:
        raise UserError(
            f"{name} needs rows of a multiple of 32 weights, and these have {width}: use int4-gptq"
        )
    kind = name.upper()
    return kind if width % 256 == 0 else INSTEAD[kind]


def quantize(weight: Tensor, kind: str, importance: Tensor | None) -> Any:
    """Return the bytes of a weight float32 [out, in] in a type of GGUF, uint8 [out, bytes].

    importance: mean square of each input, [in].
    """
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from llama_cpp import llama_cpp

    form = GGMLQuantizationType[kind]
    block, size = GGML_QUANT_SIZES[form]
    rows, width = weight.shape
    source = np.ascontiguousarray(weight.numpy(), dtype=np.float32)
    out = np.zeros((rows, width // block * size), np.uint8)
    if importance is None:
        scores = None
    else:
        scores = np.ascontiguousarray(importance.float().cpu().numpy(), dtype=np.float32)
    # ggml is a part of this library. The package does not wrap this function.
    function, pointer = llama_cpp._lib.ggml_quantize_chunk, ctypes.c_void_p
    function.restype = ctypes.c_size_t
    function.argtypes = [ctypes.c_int, pointer, pointer, *[ctypes.c_int64] * 3, pointer]
    address = None if scores is None else scores.ctypes.data
    function(int(form), source.ctypes.data, out.ctypes.data, 0, rows, width, address)
    return out


def dequantize(data: Any, kind: str) -> Tensor:
    """Return the weights behind bytes, float32 [out, in]."""
    from gguf import GGMLQuantizationType, quants

    return torch.from_numpy(quants.dequantize(data, GGMLQuantizationType[kind]))
