"""Write a LLaMA, a Qwen or a mixture of experts as GGUF, the format of llama.cpp: F16, Q8_0, Q4_0,
and K-quants by llama.cpp's own quantizer."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from bench.formats.stored import StoredFolder
from bench.formats.stored_grids import common_bits
from bench.inputs import architecture
from bench.inputs.tokenizer_facts import ask
from bench.parts.gguf.k_quants import GgmlCodec
from methods.contract.axes import AXES
from methods.contract.codec import StoredWeight
from methods.contract.errors import UserError
from methods.model.experts import stacked_as
from methods.model.folder import Folder
from methods.model.safe_files import find_file
from methods.model.targets import family_of
from methods.workshop.quantizing.integers import integer_bits

if TYPE_CHECKING:
    from gguf import GGUFWriter

WRITTEN_TYPES = ("f16", "q8_0", "q4_0")
"""Types that this module writes. llama.cpp writes the others."""
BITS = {"q8_0": 8, "q4_0": 4}
ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "mixtral": "llama",
    "qwen3_moe": "qwen3moe",
}
"""llama.cpp's name for each family that is written."""
EXPERT_PARTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
"""Tensors of GGUF in a linear of experts, along its outputs."""
BLOCK = 32
"""Weights of a row that share a scale in Q8_0 and Q4_0."""
BYTES = {"type": "ByteLevel", "add_prefix_space": False}
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_WORDS = QWEN_WORDS.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [BYTES | {"use_regex": True}],
    "smollm": [{"type": "Digits", "individual_digits": True}, BYTES | {"use_regex": True}],
    "qwen2": [
        {"type": "Split", "pattern": {"Regex": QWEN_WORDS}, "behavior": "Isolated"},
        BYTES | {"use_regex": False},
    ],
    "llama-bpe": [
        {"type": "Split", "pattern": {"Regex": LLAMA3_WORDS}, "behavior": "Isolated"},
        BYTES | {"use_regex": False},
    ],
}
"""llama.cpp's name for the steps that split text before a byte-level BPE, and their options."""
NORMALIZED = {"qwen2": {"type": "NFC"}}
"""Step before these that llama.cpp leaves out, because it normalizes no text. A tokenizer that was
read from a GGUF file does not have it."""
WHOLE_WORDS = ("llama-bpe",)
"""Steps with which llama.cpp looks a word up in the vocabulary before it applies merges
(`ignore_merges`)."""


def write(
    folder: Path,
    file: Path,
    kind: str,
    linears: Collection[str] | None = None,
    *,
    vocabulary: bool = False,
    instead: str = "leave llamacpp out of --engine",
) -> int:
    """Write the model in a folder. Return the number of `linears` whose weights were rounded.

    Args:
        kind: one of WRITTEN_TYPES.
        linears: the linears that get `kind`, while the other matrices are in F16. None: all
            matrices get `kind`. The embedding and the head get their stored form, if they have one.
            Vectors are in float32. Stored integers of the folder keep their
            codes, where `kind` has them.
        vocabulary: add the tokenizer of the folder, which a file for timing does not need.
        instead: what else the user can do, for errors.

    Raises:
        UserError: a damaged folder, another family, a scaled rotary embedding, a tensor or a
            tokenizer that is not written.
    """
    from gguf import (
        GGMLQuantizationType,
        GGUFWriter,
        LlamaFileType,
        quants,
    )

    source, stored = Folder(folder), StoredFolder(folder)
    config = source.config
    architecture.check(source)
    _require_plain(config, folder, instead)
    heads, kv_heads = (
        config["num_attention_heads"],
        config.get("num_key_value_heads") or config["num_attention_heads"],
    )
    head_size = config.get("head_dim") or config["hidden_size"] // heads
    family = family_of(config)
    writer = GGUFWriter(file, ARCHITECTURES[config["model_type"]])
    writer.add_file_type(LlamaFileType[f"MOSTLY_{kind.upper()}"])
    # transformers takes these two numbers for a config without them.
    writer.add_context_length(config.get("max_position_embeddings") or 2048)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_layer_norm_rms_eps(config.get("rms_norm_eps") or 1e-6)
    writer.add_rope_dimension_count(head_size)
    if family.experts:
        writer.add_expert_count(AXES["experts"].size(family, config))
        writer.add_expert_used_count(config["num_experts_per_tok"])
        if "moe_intermediate_size" in config:
            writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    # The key depends on transformers' version.
    theta = (config.get("rope_parameters") or {}).get("rope_theta") or config.get("rope_theta")
    theta = float(theta or 10000.0)
    writer.add_rope_freq_base(theta)
    if divisors := _rope_divisors(config, theta, head_size, folder):
        writer.add_tensor("rope_freqs.weight", np.array(divisors, np.float32))
    writer.add_vocab_size(config["vocab_size"])
    if vocabulary and find_file(folder, "tokenizer.json"):
        _add_vocabulary(writer, folder, config["vocab_size"], instead)
    else:
        writer.add_tokenizer_model("no_vocab")
    names, rounded = _names(config), 0
    suffixes = (".weight", ".bias")
    stacks: dict[str, dict[int, Any]] = {}
    for name in source:
        tensor, target = source.tensor(name), name.removesuffix(".weight")
        place = stacked_as(name, family)
        stored_name = names.get_name(name, try_suffixes=suffixes)
        if not stored_name and not place:
            raise UserError(
                f"{folder} has the tensor {name}, which is not written as GGUF: {instead}"
            )
        linear = target.removesuffix(".bias").rpartition(".")[2]
        turned = {"q_proj": heads, "k_proj": kv_heads}.get(linear, 0)
        if turned and writer.arch == "llama":
            tensor = _interleave_halves(tensor, turned)
        if tensor.ndim < 2 or target.endswith(family.dense):
            writer.add_tensor(stored_name, tensor.float().contiguous().numpy())
            continue
        if linears and target in stored.outer:
            form, array = _outer_blocks(stored[target], tensor)
            writer.add_tensor(stored_name, array, raw_dtype=form)
            continue
        is_chosen = linears is None or target in linears
        form = GGMLQuantizationType[kind.upper()] if is_chosen else GGMLQuantizationType.F16
        if form.name.lower() in BITS and tensor.shape[1] % BLOCK:
            raise UserError(
                f"{name} has {tensor.shape[1]} inputs, no multiple of {BLOCK} as {kind} needs: "
                f"{instead}"
            )
        array = None
        if linears and target in linears and target in stored:
            array = _blocks(stored[target], form.name, tensor, turned)
        if array is None:
            values = tensor.float().contiguous().numpy()
            array = quants.quantize(values, form)
            if linears and target in linears:
                rounded += not np.array_equal(quants.dequantize(array, form), values)
        if place:
            stacks.setdefault(place.name, {})[place.number] = (array, form)
        else:
            writer.add_tensor(stored_name, array, raw_dtype=form)
    for name, experts in stacks.items():
        path, _, linear = name.rpartition(".")
        whole = np.stack([array for _, (array, _) in sorted(experts.items())])
        parts = EXPERT_PARTS[linear]
        for part, array in zip(parts, np.split(whole, len(parts), axis=1), strict=True):
            stored_name = names.get_name(f"{path}.{part}.weight", try_suffixes=suffixes)
            writer.add_tensor(stored_name, np.ascontiguousarray(array), raw_dtype=experts[0][1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return rounded


def name_of(linear: str, config: Any) -> str:
    """Return the name of a linear's weight in GGUF."""
    return str(_names(config.to_dict()).get_name(f"{linear}.weight", try_suffixes=(".weight",)))


def _names(config: dict[str, Any]) -> Any:
    """Return the map from names of the model to those of GGUF."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    own = ARCHITECTURES[config["model_type"]]
    arch = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == own)
    return get_tensor_name_map(arch, config["num_hidden_layers"])


def kind_of(folder: Path) -> str:
    """Return the kind that holds a folder's stored integers without rounding, or f16."""
    bits = common_bits(StoredFolder(folder))
    return next((kind for kind, own in BITS.items() if own == bits), "f16")


def _blocks(
    stored: StoredWeight, kind: str, weight: Tensor, heads: int
) -> np.ndarray[Any, np.dtype[np.uint8]] | None:
    """Return the blocks of stored integers, uint8 [out, bytes], or None if they do not decode to
    the weight.

    A block is a scale in float16 and 32 integers: int8, or int4 + 8 with the second half in the
    upper bits. kind: name of the type; weight: in the order of the file; heads: number of heads
    whose rows are in another order, or 0.
    """
    codec: Any = stored.codec
    if integer_bits(codec) != BITS.get(kind.lower()) or codec.group % BLOCK:
        return None
    codes, scales = stored.parts["codes"], stored.parts["scales"]
    if heads:
        codes, scales = _interleave_halves(codes, heads), _interleave_halves(scales, heads)
    blocks = codes.unflatten(1, (-1, BLOCK))
    if kind == "Q4_0":
        blocks = blocks[..., : BLOCK // 2] | blocks[..., BLOCK // 2 :] << 4
    else:
        blocks = blocks ^ 0x80  # from the number plus 128 to two's complement
    halves = scales.repeat_interleave(codec.group // BLOCK, 1).half().unsqueeze(-1)
    parts = {"blocks": torch.cat([halves.view(torch.uint8), blocks], -1).flatten(1)}
    restored = GgmlCodec(kind).decode(parts).to(weight.dtype)
    return parts["blocks"].numpy() if torch.equal(restored, weight) else None


def _outer_blocks(stored: StoredWeight, weight: Tensor) -> tuple[Any, Any]:
    """Return the type and the blocks of the embedding or the head, uint8 [rows, bytes]: those that
    are stored, or F16 if no type has them."""
    from gguf import GGMLQuantizationType, quants

    if isinstance(stored.codec, GgmlCodec):
        return GGMLQuantizationType[stored.codec.type], stored.parts["blocks"].numpy()
    for kind in BITS:
        array = _blocks(stored, kind.upper(), weight, 0)
        if array is not None:
            return GGMLQuantizationType[kind.upper()], array
    form = GGMLQuantizationType.F16
    return form, quants.quantize(weight.float().contiguous().numpy(), form)


def _add_vocabulary(writer: GGUFWriter, folder: Path, size: int, instead: str) -> None:
    """Add the byte-level BPE tokenizer of a folder. size: number of rows of the embedding."""
    from gguf import SpecialVocab, TokenType

    # As the library writes it, so that every field is there.
    tokenizer = ask(folder / "tokenizer.json", lambda known: json.loads(known.to_str()))
    splitter = tokenizer.get("pre_tokenizer") or {}
    parts = [
        part
        for part in (tokenizer.get("normalizer"), *splitter.get("pretokenizers", [splitter]))
        if part
    ]
    name = None
    for each, steps in PRE_TOKENIZERS.items():
        normalizer = NORMALIZED.get(each)
        if _are(parts, steps) or (normalizer and _are(parts, [normalizer, *steps])):
            name = each
    if name and bool(tokenizer["model"].get("ignore_merges")) != (name in WHOLE_WORDS):
        name = None
    if tokenizer["model"].get("type") != "BPE" or name is None:
        raise UserError(
            f"the tokenizer of {folder} is not written as GGUF ({json.dumps(parts)}): {instead}"
        )
    added = {token["id"]: token for token in tokenizer.get("added_tokens", ())}
    known = {number: text for text, number in tokenizer["model"]["vocab"].items()}
    known |= {number: token["content"] for number, token in added.items()}
    special = dict.fromkeys(added, TokenType.USER_DEFINED)
    special |= {number: TokenType.CONTROL for number, t in added.items() if t["special"]}
    unused = {number: TokenType.UNUSED for number in range(size) if number not in known}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name)
    writer.add_token_list([known.get(number, f"[PAD{number}]") for number in range(size)])
    writer.add_token_types(
        [{**unused, **special}.get(number, TokenType.NORMAL) for number in range(size)]
    )
    try:
        SpecialVocab(folder, load_merges=True, n_vocab=size).add_to_gguf(writer, quiet=True)
    except Exception as fault:  # noqa: BLE001 (it expects no other types of values)
        raise UserError(
            f"cannot use the tokenizer of {folder} ({fault}): download or write it again"
        ) from None


def _are(parts: list[dict[str, Any]], steps: list[dict[str, Any]]) -> bool:
    """Return whether the steps of a tokenizer have these types and options."""
    if len(parts) != len(steps):
        return False
    return all(part == part | step for part, step in zip(parts, steps, strict=True))


def _require_plain(config: dict[str, Any], folder: Path, instead: str) -> None:
    """Refuse a family, an activation or a rotary embedding that this module does not write."""
    if config.get("model_type") not in ARCHITECTURES:
        raise UserError(
            f"{folder} is of the family {config.get('model_type')}, and GGUF is written for "
            f"{', '.join(ARCHITECTURES)}: {instead}"
        )
    if config["model_type"] == "qwen3_moe" and not config.get("norm_topk_prob"):
        raise UserError(
            f"{folder} has norm_topk_prob false, and llama.cpp scales the weights of a token to "
            f"the sum 1: {instead}"
        )
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        raise UserError(f"{folder} has a sliding window, which is not written as GGUF: {instead}")
    activation = config.get("hidden_act") or "silu"
    if activation != "silu":
        raise UserError(
            f"{folder} has the activation {activation}, and llama.cpp computes silu: {instead}"
        )
    kind = _rope_kind(config)
    if kind not in ("default", "llama3"):
        raise UserError(
            f"{folder} scales its rotary embedding ({kind}), which is not written as GGUF: "
            f"{instead}"
        )


def is_stretched(config: dict[str, Any]) -> bool:
    """Return whether the rotary embedding is that of LLaMA 3.1, which only llama.cpp reads from
    GGUF."""
    return _rope_kind(config) == "llama3"


def _rope_kind(config: dict[str, Any]) -> str:
    rope = _rope(config)
    return rope.get("rope_type") or rope.get("type") or "default"


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """Return the options of the rotary embedding. Their key depends on transformers' version."""
    return config.get("rope_scaling") or config.get("rope_parameters") or {}


def _rope_divisors(config: dict[str, Any], theta: float, size: int, folder: Path) -> list[float]:
    """Return what each frequency of LLaMA 3.1's rotary embedding is divided by. Empty for others.

    Waves longer than a part of the first context are stretched by `factor`, shorter ones are kept,
    and those between are mixed (The Llama 3 Herd of Models, 2407.21783, section 3.4.2, with the
    constants of its config). size: of a head. Raise UserError if a constant is missing.
    """
    if not is_stretched(config):
        return []
    rope = _rope(config)
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    factor, low, high, context = (rope.get(name) or 0 for name in names)
    if not (factor and context and 0 < low < high):
        raise UserError(
            f"{folder}/config.json has a rotary embedding of the type llama3 without the positive "
            f"numbers {', '.join(names)}, of which the second is below the third: download it again"
        )
    divisors = []
    for i in range(0, size, 2):
        wavelength = 2 * math.pi * theta ** (i / size)
        kept = (context / wavelength - low) / (high - low)
        kept = min(max(kept, 0.0), 1.0)
        divisors.append(1 / ((1 - kept) / factor + kept))
    return divisors


def _interleave_halves(weight: Tensor, heads: int) -> Tensor:
    """Reorder the rows of each head for llama.cpp, which rotates pairs where transformers rotates
    halves.

    weight: [heads * size, n], or a bias [heads * size]. Row i of the first half and row i of the
    second become neighbours.
    """
    halves = weight.unflatten(0, (heads, 2, -1))
    return torch.stack(halves.unbind(1), dim=2).flatten(0, 2)
