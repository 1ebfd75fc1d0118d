"""Write a model folder from a GGUF file, tensor by tensor: what it takes of memory is one shard.

The way of transformers holds all weights in float32, and parses the vocabulary of the file three
times with the reader of `gguf`, one numpy slice of a mapped file for each token. For half a billion
weights that was most of the time. `bench.inputs.loading.convert_gguf` is that way: exports are
checked with it, and tests compare the bytes.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from bench.inputs import architecture, gguf_header, loading
from bench.inputs.model_config import ModelConfig
from methods.contract.errors import UserError, first_line
from methods.model.families import FAMILIES, Family
from methods.model.folder import HEADS, SHARD_BYTES, Writer, dtype_name

transformers.logging.set_verbosity_error()

# The digest of the folder is in every key.
DECIDES_NO_NUMBER = True

Advance = Callable[[int, int], object]
"""Takes the bytes of the tensors that are written, and of all."""

PART_SHARD_BYTES = 2**29
"""Size of a shard, except that a model in float32 of up to SHARD_BYTES is one file, whose digest is
in keys of records."""
PART_ROWS = 4096
"""Rows of a matrix that are dequantized at a time."""
HEAD, EMBEDDING = "output.weight", "token_embd.weight"
COMPARED = ("llama", "qwen2", "gemma3_text")
"""Families whose folders were compared with those of transformers, byte by byte. Those of others
are written by transformers."""
ROTATED_IN_PAIRS = ("llama",)
"""Families whose rows llama.cpp reorders for its rotary embedding."""
CONFIG_VERSION = "5.24.0"
"""Version of transformers that a written config names. The config is part of a model's digest: with
the name of each installed version, a model pulled after an update would be another model."""
TOKENIZER_ARRAYS = ("tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.scores")


class _Reader(gguf.GGUFReader):  # type: ignore[misc]
    """The reader of `gguf`, whose slices are plain arrays. Those of a memory map take ten times as
    long."""

    @property
    def data(self) -> NDArray[np.uint8]:
        return self._data

    @data.setter
    def data(self, value: NDArray[np.uint8]) -> None:
        self._data = np.asarray(value)


def write(
    file: Path,
    target: Path,
    dtype: torch.dtype = torch.float32,
    advance: Advance = lambda done, total: None,
) -> None:
    """Dequantize a GGUF file into a safetensors folder in `dtype`, with its config and tokenizer.

    A head whose bytes are those of the embedding is tied to it, and not stored again. A family that
    is not in COMPARED is written by transformers, in float32.

    Raises:
        UserError: the file is damaged, or transformers does not know its model.
    """
    logging.getLogger("gguf").setLevel(logging.ERROR)
    fields = gguf_header.read(file.resolve()).fields
    with _faults(file):
        target.mkdir(parents=True, exist_ok=True)
        reader = _Reader(file)
        stored = _Stored(file, reader)
        config = _read_config(reader, target / "config.gguf")
        if config.model_type not in COMPARED:
            loading.convert_gguf(file, target)
            _name_version(target / "config.json")
            return
        config = _complete(config, stored, dtype)
        _write_weights(stored, config.to_dict(), target, dtype, advance)
        config.save_pretrained(target)
        _name_version(target / "config.json")
        tokenizer = _read_tokenizer(file, config)
        if fields.get("tokenizer.ggml.pre") == "smollm":
            # transformers (at least up to 5.24) ignores it.
            digits = pre_tokenizers.Digits(individual_digits=True)
            rest = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
            tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, rest])
        tokenizer.save_pretrained(target)


def _name_version(file: Path) -> None:
    """Name CONFIG_VERSION in a config, in the layout of transformers."""
    config = json.loads(file.read_text(encoding="utf-8")) | {"transformers_version": CONFIG_VERSION}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def _faults(file: Path) -> Iterator[None]:
    """Turn any error of a library about a file into a UserError."""
    try:
        yield
    except (MemoryError, OSError, UserError):
        raise
    except Exception as fault:
        why = first_line(fault)
        raise UserError(f"GGUF file {str(file.resolve())!r} cannot be loaded: {why}") from fault


class _Stored:
    """The tensors of a file, read some rows at a time: pages of a mapped file would stay in
    memory."""

    def __init__(self, file: Path, reader: _Reader) -> None:
        self._file = file
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def size(self, name: str) -> int:
        """Return the bytes of a tensor."""
        return int(self._tensors[name].n_bytes)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(int(size) for size in reversed(self._tensors[name].shape))

    def parts(self, name: str) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Yield the stored rows of a tensor, PART_ROWS at a time, and their place."""
        tensor = self._tensors[name]
        row_bytes, offset = tensor.data[0].nbytes, int(tensor.data_offset)
        for a in range(0, len(tensor.data), PART_ROWS):
            rows = slice(a, min(a + PART_ROWS, len(tensor.data)))
            size = (rows.stop - a) * row_bytes
            stored = np.fromfile(self._file, np.uint8, size, offset=offset + a * row_bytes)
            yield (
                rows,
                stored.view(tensor.data.dtype).reshape(rows.stop - a, *tensor.data.shape[1:]),
            )

    def values(self, name: str) -> Iterator[tuple[slice, Tensor]]:
        """Yield the rows of a tensor in float32, PART_ROWS at a time, and their place."""
        for rows, stored in self.parts(name):
            values = gguf.dequantize(stored, self._tensors[name].tensor_type)
            yield rows, torch.from_numpy(values)

    @property
    def is_tied(self) -> bool:
        """True if the file has no head, or one with the bytes of the embedding."""
        if HEAD not in self._tensors:
            return True
        head, embedding = self._tensors[HEAD], self._tensors[EMBEDDING]
        if (head.tensor_type, head.n_bytes) != (embedding.tensor_type, embedding.n_bytes):
            return False
        pairs = zip(self.parts(HEAD), self.parts(EMBEDDING), strict=True)
        return all(np.array_equal(ours, theirs) for (_, ours), (_, theirs) in pairs)


def _read_config(reader: _Reader, scalars: Path) -> Any:
    """Return the config by transformers, which reads a small file without tokens.

    scalars: path of the small file, which is deleted.
    """
    name = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(scalars, name)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture" or key in TOKENIZER_ARRAYS:
            continue
        kind, *inner = field.types
        writer.add_key_value(key, field.contents(), kind, inner[-1] if inner else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    config = AutoConfig.from_pretrained(scalars.parent, gguf_file=scalars.name)
    scalars.unlink()
    return config


def _complete(config: Any, stored: _Stored, dtype: torch.dtype) -> Any:
    """Return a config with what a file says outside its scalars."""
    values = config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        values.pop(key, None)
    values["architectures"] = [MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__]
    values["dtype"] = dtype_name(dtype)
    values["tie_word_embeddings"] = stored.is_tied
    values["vocab_size"] = stored.shape(EMBEDDING)[0]
    return type(config).from_dict(values)


def _read_tokenizer(file: Path, config: Any) -> Any:
    """Return the tokenizer by transformers. Named, its class is not looked up in another parse of
    the file."""
    if config.model_type == "llama":
        return PreTrainedTokenizerFast.from_pretrained(file.parent, gguf_file=file.name)
    return AutoTokenizer.from_pretrained(
        file.parent, gguf_file=file.name, tokenizer_type=config.model_type
    )


def _write_weights(
    stored: _Stored, config: Mapping[str, Any], target: Path, dtype: torch.dtype, advance: Advance
) -> None:
    family = FAMILIES[config["model_type"]]
    layout = architecture.layout_of(family, ModelConfig(config, str(target)))
    names = [name for name, _ in layout.tensors(family.blocks)]
    if not config["tie_word_embeddings"]:
        names.append(HEADS[0] + "weight")
    theirs = _names_in_file(names, config["model_type"], layout.blocks)
    missing = [name for name in theirs.values() if name not in stored]
    if missing:
        raise ValueError(f"it has no tensor {missing[0]}")
    total = sum(map(stored.size, theirs.values()))
    weights = sum(math.prod(stored.shape(name)) for name in theirs.values())
    is_one_file = dtype == torch.float32 and 4 * weights <= SHARD_BYTES
    writer = Writer(target, SHARD_BYTES if is_one_file else PART_SHARD_BYTES, dtype)
    done = 0
    for ours, name in theirs.items():
        writer.add(ours, _read(stored, name, family, ours, config, dtype))
        done += stored.size(name)
        advance(done, total)
    writer.close()


def _names_in_file(names: list[str], model_type: str, blocks: int) -> dict[str, str]:
    """Return the name in a GGUF file of each tensor of a model."""
    # `gguf` names families as llama.cpp does: gemma3_text is gemma3.
    known = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    arch = known[model_type.removesuffix("_text")]
    found = gguf.get_tensor_name_map(arch, blocks)
    return {name: found.get_name(name, try_suffixes=(".weight", ".bias")) for name in names}


def _read(
    stored: _Stored,
    name: str,
    family: Family,
    ours: str,
    config: Mapping[str, Any],
    dtype: torch.dtype,
) -> Tensor:
    """Return a tensor as the folder of a model has it, where llama.cpp has changed it.

    name, ours: its name in the file and in the model.
    """
    out = torch.empty(stored.shape(name), dtype=dtype)
    offset = family.flow.offset if family.flow and name.endswith("norm.weight") else 0
    for rows, values in stored.values(name):
        out[rows] = values - offset
    if config["model_type"] in ROTATED_IN_PAIRS:
        out = _rotate_halves(out, name, config)
    return out.T.contiguous() if family.turns(ours) else out


def _rotate_halves(weight: Tensor, name: str, config: Mapping[str, Any]) -> Tensor:
    """Reorder the rows of each head for transformers, which rotates halves where llama.cpp rotates
    pairs. Do not change other tensors."""
    if ".attn_q." in name:
        heads = config["num_attention_heads"]
    elif ".attn_k." in name:
        heads = config["num_key_value_heads"]
    else:
        return weight
    pairs: Tensor = weight.unflatten(0, (heads, -1, 2))
    return pairs.transpose(1, 2).flatten(0, 2)
