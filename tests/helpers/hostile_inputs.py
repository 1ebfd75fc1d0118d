"""Model folders and GGUF files made to mislead, flood or stop a command."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import folders, gguf_files, runs

Case = Callable[[Path], object]
DEEP = "[" * 100_000
ESCAPE = "\x1b]0;owned\a"
OUTSIDE = "../../secret"

# Model folders


def model(damage: Case) -> Case:
    """Damage a copy of tiny's folder."""
    return lambda folder: damage(runs.tiny(folder / "model"))


def header_of(name: str, **fields: Any) -> Case:
    return folders.header(lambda header: header[name].update(fields))


def raw(text: bytes | Callable[[], bytes], length: int | None = None, data: bytes = b"") -> Case:
    """Write a safetensors file with a header of any text."""

    def content() -> bytes:
        made = text() if callable(text) else text
        return struct.pack("<Q", len(made) if length is None else length) + made + data

    return folders.text("model.safetensors", content)


def tokenizer_config(**fields: Any) -> Case:
    fields = {"tokenizer_class": "PreTrainedTokenizerFast"} | fields
    return folders.text("tokenizer_config.json", json.dumps(fields))


def weight_map(value: Any) -> Case:
    return folders.text(INDEX, json.dumps({"weight_map": value}))


INDEX = "model.safetensors.index.json"
A_BYTE = '"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
EMPTY = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
SAFETENSORS: dict[str, Case] = {
    name: model(damage)
    for name, damage in {
        **{
            f"shape {shape!r}": header_of(folders.NORM, shape=shape)
            for shape in ([1.5], ["128"], [-128], [], None, [128] * 1000, [2**63], [10**400])
        },
        **{
            f"offsets {offsets!r}": header_of(folders.NORM, data_offsets=offsets)
            for offsets in ([5, 1], [-8, 504], [0.0, 512.0], ["0", "512"], [0, 2**64], [0], None)
        },
        **{
            f"dtype {dtype!r}": header_of(folders.NORM, dtype=dtype)
            for dtype in ("F128", None, ["F32"], ESCAPE, "BOOL")
        },
        "name of a path": folders.header(lambda h: h.update({OUTSIDE: h.pop(folders.NORM)})),
        "name of an escape": folders.header(lambda h: h.update({ESCAPE: h.pop(folders.NORM)})),
        "many tensors": raw(lambda: json.dumps({f"t{i}": EMPTY for i in range(200_000)}).encode()),
        "long header": raw(lambda: b"{}" + b" " * 200_000_000),
        "length of a lie": raw(b"{}", 2**40),
        "name twice": raw(f"{{{A_BYTE},{A_BYTE}}}".encode(), data=b"x"),
        "not unicode": raw(b'{"\xff": 1}'),
        "deep metadata": folders.header(lambda h: h.update(__metadata__={"format": {"a": [[]]}})),
        "more data": lambda folder: (folder / "model.safetensors").open("ab").write(bytes(99)),
        "map to a root": weight_map({folders.NORM: "/etc/passwd"}),
        "map to a number": weight_map({folders.NORM: 7}),
        "map of a list": weight_map([OUTSIDE]),
    }.items()
}

TOKENIZERS: dict[str, Case] = {
    name: model(damage)
    for name, damage in {
        "deep": folders.text("tokenizer.json", DEEP),
        "large": folders.text("tokenizer.json", lambda: '{"a": "' + "x" * 200_000_000 + '"}'),
        "list": folders.text("tokenizer.json", "[]"),
        "twice": folders.text("tokenizer.json", '{"model": {}, "model": {}}'),
        "linked": folders.link("tokenizer.json", "/dev/zero"),
        "piped config": folders.pipe("tokenizer_config.json"),
        "ids of text": folders.tokenizer(lambda v: v["model"]["vocab"].update(a="7")),
        "negative id": folders.tokenizer(lambda v: v["model"]["vocab"].update(a=-1)),
        "far id": folders.tokenizer(lambda v: v["model"]["vocab"].update(a=2**31)),
        "vocabulary of a list": folders.tokenizer(lambda v: v["model"].update(vocab=[1, 2])),
        "unknown model": folders.tokenizer(lambda v: v["model"].update(type="Pickle")),
        "merges of numbers": folders.tokenizer(lambda v: v["model"].update(merges=[1, 2])),
        "merges of others": folders.tokenizer(lambda v: v["model"].update(merges=["zz yy"])),
        "added tokens of text": folders.tokenizer(lambda v: v.update(added_tokens="many")),
        "far added token": folders.tokenizer(lambda v: v["added_tokens"][0].update(id=2**40)),
        "deep normalizer": folders.tokenizer(lambda v: v.update(normalizer=sequence(200))),
        "slow expression": folders.tokenizer(
            lambda v: v.update(pre_tokenizer=split("(([a-z ])*)*$"))
        ),
        "expression of an error": folders.tokenizer(lambda v: v.update(pre_tokenizer=split("(("))),
        "own class": tokenizer_config(
            tokenizer_class="os.system", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]}
        ),
        "special token of a list": tokenizer_config(bos_token=[1], eos_token={"a": 1}),
        "length of text": tokenizer_config(model_max_length="long", padding_side="up"),
    }.items()
}


def sequence(depth: int) -> dict[str, Any]:
    out: dict[str, Any] = {"type": "NFC"}
    for _ in range(depth):
        out = {"type": "Sequence", "normalizers": [out]}
    return out


def split(expression: str) -> dict[str, Any]:
    about = {"type": "Split", "behavior": "Isolated", "invert": False}
    return about | {"pattern": {"Regex": expression}}


# GGUF


def gguf(damage: Case) -> Case:
    return lambda folder: damage(folder / "x.gguf")


ODD_FIELDS = (
    ("context_length", "x"), ("context_length", 2**60), ("embedding_length", 0),
    ("block_count", 1.5), ("attention.head_count", 0), ("attention.head_count_kv", 3),
    ("rope.freq_base", float("nan")), ("attention.layer_norm_rms_epsilon", -1.0),
    ("feed_forward_length", [1, 2]), ("vocab_size", 1),
)  # fmt: skip
NAMES = ("general.name", "general.basename")
GGUF: dict[str, Case] = {
    name: gguf(damage)
    for name, damage in {
        **{
            f"{key} of {value!r}": gguf_files.changed({f"llama.{key}": value})
            for key, value in ODD_FIELDS
        },
        **{f"byte {at}": gguf_files.patched(at, "<B", 0xFF) for at in range(6, 300, 29)},
        "negative tokens": gguf_files.changed({"tokenizer.ggml.bos_token_id": 2**32 - 1}),
        "token types of others": gguf_files.changed({"tokenizer.ggml.token_type": [99] * 258}),
        "name of an escape": gguf_files.changed({"general.name": ESCAPE}),
        "name of a path": gguf_files.changed(dict.fromkeys(NAMES, OUTSIDE)),
    }.items()
}
