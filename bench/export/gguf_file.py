"""Write a LLaMA as GGUF, the format of llama.cpp, in F16 or Q8_0.

The file is for timing and has no vocabulary.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods.errors import UserError
from methods.folder import Folder

KINDS = ("fp16", "q8_0")
FAMILY = "llama"
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
"""Names in the file, by names in a state dict. Without an output matrix, llama.cpp uses the embedding."""
BLOCK_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write(folder: Path, file: Path, kind: str) -> None:
    """Write the model in a folder: matrices in `kind`, vectors in float32.

    Raises:
        UserError: another family, a scaled rotary embedding, or a tensor that the format has no name for.
    """
    from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType, quants

    source = Folder(folder)
    config = source.config
    _require_plain(config, folder)
    heads, kv_heads = config["num_attention_heads"], config.get("num_key_value_heads") or config["num_attention_heads"]
    head_size = config.get("head_dim") or config["hidden_size"] // heads
    stored = GGMLQuantizationType.Q8_0 if kind == "q8_0" else GGMLQuantizationType.F16
    writer = GGUFWriter(file, FAMILY)
    writer.add_file_type(LlamaFileType.MOSTLY_Q8_0 if kind == "q8_0" else LlamaFileType.MOSTLY_F16)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(head_size)
    writer.add_rope_freq_base(_theta(config))
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    for name in source:
        tensor = source.tensor(name).float()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            tensor = _interleave_halves(tensor, heads if name.endswith("q_proj.weight") else kv_heads)
        array = tensor.contiguous().numpy()
        if array.ndim < 2:
            writer.add_tensor(_name(name, folder), array.astype(np.float32))
        else:
            writer.add_tensor(_name(name, folder), quants.quantize(array, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _require_plain(config: dict[str, Any], folder: Path) -> None:
    """Refuse a family or a rotary embedding that this module does not write."""
    if config.get("model_type") != FAMILY:
        raise UserError(
            f"{folder} is of the family {config.get('model_type')}, and only {FAMILY} is written as GGUF: "
            "leave llamacpp out of --engine"
        )
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind != "default":
        raise UserError(
            f"{folder} scales its rotary embedding ({kind}), which is not written as GGUF: leave llamacpp out of --engine"
        )


def _theta(config: dict[str, Any]) -> float:
    """Return the base of the rotary embedding, whose key depends on transformers' version."""
    return float((config.get("rope_parameters") or {}).get("rope_theta") or config.get("rope_theta") or 10000.0)


def _interleave_halves(weight: Tensor, heads: int) -> Tensor:
    """Reorder the rows of each head for llama.cpp, which rotates pairs where transformers rotates halves.

    weight: [heads * size, in]. Row i of the first half and row i of the second become neighbours.
    """
    halves = weight.unflatten(0, (heads, 2, -1))
    return torch.stack(halves.unbind(1), dim=2).flatten(0, 2)


def _name(name: str, folder: Path) -> str:
    """Return the name in the file, or refuse a tensor that the family does not have."""
    if name in NAMES:
        return NAMES[name]
    match = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    if match is None or match[2] not in BLOCK_NAMES:
        raise UserError(f"{folder} has the tensor {name}, which is not written as GGUF: leave llamacpp out of --engine")
    return f"blk.{match[1]}.{BLOCK_NAMES[match[2]]}.weight"
