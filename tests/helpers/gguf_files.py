"""A small LLaMA as a GGUF file, and damages to it."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter
from tokenizers.pre_tokenizers import ByteLevel

HIDDEN, INNER, HEADS, LAYERS = 32, 64, 4, 2
TOKENS = [*sorted(ByteLevel.alphabet()), "ab", "<|endoftext|>"]

FIELDS: dict[str, Any] = {
    "llama.context_length": 64,
    "llama.embedding_length": HIDDEN,
    "llama.block_count": LAYERS,
    "llama.feed_forward_length": INNER,
    "llama.attention.head_count": HEADS,
    "llama.attention.head_count_kv": HEADS,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.dimension_count": HIDDEN // HEADS,
    "llama.rope.freq_base": 10000.0,
    "llama.vocab_size": len(TOKENS),
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [1] * (len(TOKENS) - 1) + [3],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.bos_token_id": len(TOKENS) - 1,
    "tokenizer.ggml.eos_token_id": len(TOKENS) - 1,
}


ADDS = {
    str: GGUFWriter.add_string, float: GGUFWriter.add_float32, list: GGUFWriter.add_array,
    int: GGUFWriter.add_uint32, "long": GGUFWriter.add_uint64,
}  # fmt: skip


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in numpy's order."""
    block = {
        "attn_norm": (HIDDEN,),
        "ffn_norm": (HIDDEN,),
        **{f"attn_{x}": (HIDDEN, HIDDEN) for x in ("q", "k", "v", "output")},
        "ffn_gate": (INNER, HIDDEN),
        "ffn_up": (INNER, HIDDEN),
        "ffn_down": (HIDDEN, INNER),
    }
    out = {f"blk.{i}.{name}.weight": shape for i in range(LAYERS) for name, shape in block.items()}
    return {"token_embd.weight": (len(TOKENS), HIDDEN), "output_norm.weight": (HIDDEN,)} | out


Changes = Mapping[str, Any] | None


def write(file: Path, fields: Changes = None, tensors: Changes = None, kind: str = "llama") -> Path:
    """Write the file. fields, tensors: changes; None leaves one out."""
    writer = GGUFWriter(file, kind)
    for key, value in (FIELDS | dict(fields or {})).items():
        if value is None:
            continue
        form = "long" if isinstance(value, int) and value >= 2**32 else type(value)
        ADDS[form](writer, key, value)
    random = np.random.default_rng(0)
    for name, shape in (shapes() | dict(tensors or {})).items():
        if shape is not None:
            writer.add_tensor(name, random.normal(0, 0.1, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


Damage = Callable[[Path], object]


def changed(fields: Changes = None, tensors: Changes = None) -> Damage:
    return lambda file: write(file, fields, tensors)


def patched(at: int | str, form: str, *values: object, skip: int = 0) -> Damage:
    """Overwrite bytes at an offset, or `skip` bytes after a text."""

    def damage(file: Path) -> None:
        content = bytearray(write(file).read_bytes())
        start = at if isinstance(at, int) else content.index(at.encode()) + len(at) + skip
        struct.pack_into(form, content, start, *values)
        file.write_bytes(content)

    return damage


def cut(keep: int) -> Damage:
    """Truncate the file. A negative number counts from the end."""

    def damage(file: Path) -> None:
        size = write(file).stat().st_size
        os.truncate(file, keep if keep >= 0 else size + keep)

    return damage


SIZE = "llama.vocab_size"
EPS, MODEL, EMBEDDING = "layer_norm_rms_epsilon", "tokenizer.ggml.tokens", "token_embd.weight"

DAMAGES: dict[str, Damage] = {
    "endless tensors": patched(8, "<Q", 2**63),
    "endless array": patched(MODEL, "<IIQ", 9, 0, 2**60),
    "large array": patched(MODEL, "<IIQ", 9, 8, 10**9),
    "offset past the end": patched(EMBEDDING, "<Q", 2**40, skip=24),
    "overlap": patched("output_norm.weight", "<Q", 0, skip=16),
    "scaled positions": changed({"llama.rope.scaling.type": "linear"}),
    "another architecture": lambda file: write(file, kind="mamba"),
    "field of another architecture": changed({"mistral.block_count": 2**31}),
    "wide": changed({"llama.embedding_length": 2**20}),
    "more tokens than rows": changed({"tokenizer.ggml.tokens": [*TOKENS, "+"], SIZE: None}),
    "a wide tensor": changed(tensors={"blk.0.ffn_up.weight": (INNER, 2 * HIDDEN)}),
}
"""Damages that the header shows."""

LATE_DAMAGES: dict[str, Damage] = {
    "no norm": changed(tensors={"blk.1.ffn_norm.weight": None}),
    "no tokens": changed({"tokenizer.ggml.tokens": None}),
    "strange merges": changed({"tokenizer.ggml.merges": ["a", "b c d", ""]}),
}
"""Damages that conversion finds."""
