"""Damages and traps for copies of tiny's folder."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

Damage = Callable[[Path], object]


def config(**changes: object) -> Damage:
    """Change values of config.json. None deletes a key."""

    def damage(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text()) | changes
        left = {name: value for name, value in values.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(left))

    return damage


def text(name: str, content: str | bytes | Callable[[], str | bytes]) -> Damage:
    """Write a file. content: a function makes it when it is written."""

    def damage(folder: Path) -> None:
        made = content() if callable(content) else content
        _replace(folder / name).write_bytes(made.encode() if isinstance(made, str) else made)

    return damage


def link(name: str, target: str) -> Damage:
    """Replace a file by a link."""
    return lambda folder: _replace(folder / name).symlink_to(target)


def pipe(name: str) -> Damage:
    """Replace a file by a pipe."""
    return lambda folder: os.mkfifo(_replace(folder / name))


def header(change: Callable[[dict], object]) -> Damage:
    """Change the header of the weights, but not the data."""

    def damage(folder: Path) -> None:
        content = (folder / "model.safetensors").read_bytes()
        length = int.from_bytes(content[:8], "little")
        about = json.loads(content[8 : 8 + length])
        change(about)
        new = json.dumps(about).encode()
        new = struct.pack("<Q", len(new)) + new
        (folder / "model.safetensors").write_bytes(new + content[8 + length :])

    return damage


def cut(name: str, keep: int) -> Damage:
    """Make a file shorter, or longer by zeros."""
    return lambda folder: os.truncate(folder / name, keep)


def _replace(file: Path) -> Path:
    file.unlink(missing_ok=True)
    return file


def index_to(shard: str, name: str = "x") -> Damage:
    return text("model.safetensors.index.json", json.dumps({"weight_map": {name: shard}}))


EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"


def tensor(name: str, count: int) -> Damage:
    """Add a tensor of zeros."""

    def damage(folder: Path) -> None:
        import torch
        from safetensors.torch import load_file, save_file

        file = folder / "model.safetensors"
        save_file(load_file(file) | {name: torch.zeros(count)}, file, metadata={"format": "pt"})

    return damage


def tokenizer(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Change the values of tokenizer.json."""

    def damage(folder: Path) -> None:
        values = json.loads((folder / "tokenizer.json").read_text())
        change(values)
        (folder / "tokenizer.json").write_text(json.dumps(values))

    return damage


def template(parts: int, ids: int = 1) -> Damage:
    """Add special tokens before a text."""
    special = {"SpecialToken": {"id": "x", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    about = {"id": "x", "ids": [1] * ids, "tokens": ["x"] * ids}
    made = {"type": "TemplateProcessing", "single": [special] * parts + [text], "pair": []}
    made["special_tokens"] = {"x": about}
    return tokenizer(lambda v: v.update(post_processor=made))


def replaced(times: int, content: str = "aa") -> Damage:
    """Replace "a" by a longer text, several times."""
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": content}
    about = {"type": "Sequence", "normalizers": [step] * times}
    return tokenizer(lambda v: v.update(normalizer=about))


def padding(**fields: object) -> Damage:
    about = {"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": None}
    about |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "x"} | fields
    return tokenizer(lambda v: v.update(padding=about))


TOKENIZERS: dict[str, tuple[Damage, str]] = {
    "dropout": (tokenizer(lambda v: v["model"].update(dropout=0.1)), "BPE dropout of 0.1"),
    "padding to a multiple": (padding(pad_to_multiple_of=64), "it pads every text"),
    "long template": (template(100_000), "more than 16 tokens of a character"),
    "growth": (replaced(60), "more than 1,073,741,824 bytes of memory"),
    "some growth": (replaced(13), "more than 16 tokens of a character"),
    "sampling": (
        text("tokenizer_config.json", '{"sp_model_kwargs": {"enable_sampling": true}}'),
        "has sp_model_kwargs",
    ),
}
"""Changes of tokenizer.json that change what is measured, and what the refusal says."""

DAMAGES: dict[str, Damage] = {
    "linked": link("generation_config.json", "/etc/passwd"),
    "linked config": link("config.json", "/etc/passwd"),
    "linked weights": link("model.safetensors", "/dev/zero"),
    "linked to itself": link("config.json", "config.json"),
    "piped": pipe("config.json"),
    "piped weights": pipe("model.safetensors"),
    "layers": config(num_hidden_layers=3),
    "quantized by a list": config(quantization_config=[]),
    "narrow": config(hidden_size=64),
    "other heads": config(num_attention_heads=8),
    "a list of rotary settings": config(rope_parameters=[]),
    "extra tensor": tensor("model.extra", 3),
    "own code": config(auto_map={"AutoModel": "evil.Model"}),
    "other weights": config(transformers_weights="other.safetensors"),
    "attention of a hub": config(attn_implementation="owner/kernels"),
    "many labels": config(num_labels=2**31),
    "adapter": text("adapter_config.json", '{"base_model_name_or_path": "elsewhere"}'),
    "deep": text("config.json", '{"a":' * 500 + "1" + "}" * 500),
    "large": cut("config.json", 70_000_000),
    "tokenizer": text("tokenizer.json", "{}"),
    "tokenizer of another": lambda folder: _grow_vocabulary(folder / "tokenizer.json"),
    "pickled": lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
    "truncated": cut("model.safetensors", 1_000_000),
    "strange dtype": header(lambda h: h[NORM].update(dtype="F31")),
    "large shape": header(lambda h: h[EMBEDDING].update(shape=[2**62, 2**62])),
    "index and weights": lambda folder: (
        shutil.copy(folder / "model.safetensors", folder / "other.safetensors"),
        index_to("other.safetensors", NORM)(folder),
    ),
    "index to outside": index_to("../x.safetensors"),
    "index to a missing shard": index_to("y.safetensors"),
}


def _grow_vocabulary(file: Path) -> None:
    about = json.loads(file.read_text())
    vocabulary = about["model"]["vocab"]
    vocabulary["last"] = len(vocabulary) + 5000
    file.write_text(json.dumps(about))
