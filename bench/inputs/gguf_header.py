"""Check the header of a GGUF file before a library reads it. Needs no torch.

The library `gguf` trusts the counts and sizes in a file, and transformers builds a model of any
size that the fields name. So this module compares both with the bytes and the tensors of the file.
The reader of `gguf` cannot do that: it needs several seconds and gigabytes of memory for a file of
eight megabytes.
"""

from __future__ import annotations

import math
import os
import re
import stat
import struct
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from methods.contract.errors import UserError

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "gpt2", "gemma3")
"""Architectures that transformers reads from GGUF and that can be pruned."""
VERSIONS = (2, 3)
MAX_ELEMENTS = 2_000_000
"""Largest number of fields, tensors and elements of arrays in all. `gguf` makes several objects of
each. Vocabularies have up to 2^18 tokens."""
STRING, ARRAY = 8, 9
SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
"""Formats of scalar types for `struct`."""
FLOATS = ("F32", "F16", "BF16", "F64")
"""Types of numbers that are not quantized."""


class _Tensor(NamedTuple):
    shape: tuple[int, ...]
    """Sizes of the dimensions, the fastest first."""
    begin: int
    """Offset from the start of the data in bytes."""
    size: int
    """Size in bytes."""
    kind: str
    """Name of its type in llama.cpp, for example "Q4_K"."""


class Header(NamedTuple):
    """Fields and tensors of a file."""

    fields: dict[str, Any]
    """Scalars and texts by key. The value of an array is its number of elements."""
    tensors: dict[str, _Tensor]


def read(file: Path) -> Header:
    """Return the header of a complete GGUF file whose fields match its tensors, and all of which
    transformers reads."""
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):
            raise ValueError("not a regular file")
        with file.open("rb") as stream:
            header = _Reader(stream, file.stat().st_size).header()
        _check_architecture(header)
        return header
    except (OSError, ValueError) as fault:
        why = getattr(fault, "strerror", None) or fault
        raise UserError(
            f"cannot read {file} as GGUF ({why}): download it again, or use another model"
        ) from None


class _Reader:
    """Reader of a header. It never reads past the end of the file."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self._stream, self._size, self._elements = stream, size, 0

    def header(self) -> Header:
        """Read the header. Raise ValueError if the header is invalid, or the file is too short."""
        if self._bytes(4) != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        version = self._number("<I")
        if version not in VERSIONS:
            raise ValueError(f"version {version}, not {' or '.join(map(str, VERSIONS))}")
        tensor_count, field_count = self._number("<Q"), self._number("<Q")
        self._count(tensor_count + field_count)
        fields: dict[str, Any] = {}
        for _ in range(field_count):
            key = self._text()
            if key in fields:
                raise ValueError(f"the field {key!r} occurs twice")
            fields[key] = self._value(self._number("<I"))
        alignment = fields.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= 2**16 or alignment & (alignment - 1):
            raise ValueError(f"alignment {alignment!r}")
        tensors: dict[str, _Tensor] = {}
        for _ in range(tensor_count):
            name = self._text()
            if name in tensors:
                raise ValueError(f"the tensor {name!r} occurs twice")
            tensors[name] = self._tensor(name, alignment)
        start = -(-self._stream.tell() // alignment) * alignment
        spans = sorted((t.begin, t.begin + t.size) for t in tensors.values())
        if not spans or spans[-1][1] > self._size - start:
            raise ValueError("incomplete file")
        if any(
            -(-before[1] // alignment) * alignment != after[0]
            for before, after in pairwise([(0, 0), *spans])
        ):
            raise ValueError("its tensors overlap, or leave gaps")
        return Header(fields, tensors)

    def _tensor(self, name: str, alignment: int) -> _Tensor:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        count = self._number("<I")
        if not 0 < count <= 4:
            raise ValueError(f"{name!r} has {count} dimensions")
        shape = tuple(self._number("<Q") for _ in range(count))
        kind, begin = self._number("<I"), self._number("<Q")
        if kind not in list(GGML_QUANT_SIZES):  # members of an IntEnum
            raise ValueError(f"{name!r} has the unknown type {kind}")
        block, size = GGML_QUANT_SIZES[kind]
        if 0 in shape or math.prod(shape) > 2**48 or shape[0] % block or begin % alignment:
            raise ValueError(f"{name!r} is {list(shape)} at {begin}")
        return _Tensor(
            shape, begin, math.prod(shape) // block * size, GGMLQuantizationType(kind).name
        )

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._text()
        if kind in SCALARS:
            return self._number(SCALARS[kind])
        if kind != ARRAY:
            raise ValueError(f"a value of the unknown type {kind}")
        kind, count = self._number("<I"), self._number("<Q")
        self._count(count)
        if kind == STRING:
            for _ in range(count):
                self._text()
        elif kind in SCALARS:
            self._bytes(count * struct.calcsize(SCALARS[kind]))
        else:
            raise ValueError(f"an array of the type {kind}")
        return count

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._bytes(struct.calcsize(form)))[0]

    def _text(self) -> str:
        return self._bytes(self._number("<Q")).decode()

    def _count(self, more: int) -> None:
        self._elements += more
        if self._elements > MAX_ELEMENTS:
            raise ValueError(f"more than {MAX_ELEMENTS:,} fields, tensors and elements")

    def _bytes(self, count: int) -> bytes:
        if count > self._size - self._stream.tell():
            raise ValueError("incomplete file")
        return self._stream.read(count)


def _check_architecture(header: Header) -> None:
    """Check the fields of a model against its tensors. Raise ValueError if a field contradicts the
    tensors."""
    from gguf.constants import MODEL_ARCH_NAMES

    fields, tensors = header
    kind = fields.get("general.architecture")
    if kind not in ARCHITECTURES:
        raise ValueError(f"architecture {kind!r}, not one of {', '.join(ARCHITECTURES)}")
    others = {*MODEL_ARCH_NAMES.values(), *ARCHITECTURES} - {kind}
    strangers = [key for key in fields if key.partition(".")[0] in others]
    if strangers:
        raise ValueError(f"{strangers[0]!r} is a field of another architecture than {kind}")
    hidden = _size(fields, kind, "embedding_length")
    heads = _size(fields, kind, "attention.head_count")
    groups = _size(fields, kind, "attention.head_count_kv", heads)
    inner, layers = _size(fields, kind, "feed_forward_length"), _size(fields, kind, "block_count")
    width = _head_width(fields, kind, max(1, hidden // heads))
    vocabulary = _shape(tensors, "token_embd.weight")[-1]
    numbers = [re.match(r"blk\.(\d+)\.", name) for name in tensors]
    blocks = {int(number[1]) for number in numbers if number}
    if blocks != set(range(len(blocks))) or len(blocks) != layers:
        raise ValueError(
            f"{kind}.block_count is {layers}, and there are tensors of {len(blocks)} blocks"
        )
    for key in (f"{kind}.vocab_size", "tokenizer.ggml.tokens"):
        if key in fields and fields[key] != vocabulary:
            raise ValueError(
                f"{key} is {fields[key]!r}, and token_embd.weight has {vocabulary} rows"
            )
    block = {"ffn_up": (hidden, inner), "ffn_down": (inner, hidden)}
    if kind == "gpt2":
        block |= {"attn_qkv": (hidden, 3 * hidden)}
    else:
        block |= {"attn_q": (hidden, heads * width), "attn_k": (hidden, groups * width)}
        block |= {"attn_v": (hidden, groups * width), "attn_output": (heads * width, hidden)}
        block |= {"ffn_gate": (hidden, inner)}
    scaling = fields.get(f"{kind}.rope.scaling.type", "none")
    if scaling != "none":
        raise ValueError(
            f"{kind}.rope.scaling.type is {scaling!r}, and transformers does not read it from GGUF"
        )
    name = next((n for n in tensors if not _is_read(n, kind)), "")
    if name:
        raise ValueError(f"transformers does not read its tensor {name} from GGUF")
    expected = {
        f"blk.{i}.{name}.weight": shape for i in range(layers) for name, shape in block.items()
    }
    expected["token_embd.weight"] = (hidden, vocabulary)
    for name, shape in expected.items():
        if _shape(tensors, name) != shape:
            raise ValueError(
                f"{name} is {list(_shape(tensors, name))}, and by the fields {list(shape)}"
            )


def _is_read(name: str, kind: str) -> bool:
    """Return whether transformers (at least up to 5.24) reads a tensor. It leaves out others
    without a word."""
    outer = "token_embd|output|output_norm"
    if kind == "gpt2":
        outer += "|position_embd"
    norms = {
        "qwen3": "|attn_[qk]_norm",
        "gemma3": "|attn_[qk]_norm|post_attention_norm|post_ffw_norm",
    }.get(kind, "")
    block = f"attn_(norm|q|k|v|qkv|output)|ffn_(norm|gate|up|down){norms}"
    biases = {
        "qwen2": r"|blk\.\d+\.attn_[qkv]\.bias",
        "gpt2": r"|(output_norm|blk\.\d+\.\w+)\.bias",
    }.get(kind, "")
    return bool(re.fullmatch(rf"({outer}|blk\.\d+\.({block}))\.weight{biases}", name))


def _head_width(fields: Mapping[str, Any], kind: str, share: int) -> int:
    """Return the width of a head that transformers (at least up to 5.24) builds. share: hidden size
    divided by heads."""
    if kind == "qwen3":
        return 128
    if kind == "gemma3":
        return _size(fields, kind, "attention.key_length", 256)
    return share if kind == "qwen2" else _size(fields, kind, "rope.dimension_count", share)


def _size(fields: Mapping[str, Any], kind: str, key: str, default: int | None = None) -> int:
    value = fields.get(f"{kind}.{key}", default)
    if type(value) is not int or not 0 < value <= 2**24:
        raise ValueError(f"{kind}.{key} is {value!r}")
    return value


def _shape(tensors: Mapping[str, _Tensor], name: str) -> tuple[int, ...]:
    if name not in tensors:
        raise ValueError(f"it has no tensor {name}")
    return tensors[name].shape
