"""GGUF files as models made elsewhere."""

import gguf
import torch

from bench.formats.opening import open_checkpoint
from helpers import gguf_files


def test_a_gguf_file_of_gpt2_has_its_weights_out_by_in(tmp_path, cache):
    """transformers turns them for its Conv1D, and the folder in the cache has them turned."""
    fields = {name: None for name in gguf_files.FIELDS if name.startswith("llama.")}
    sizes = {"context_length": 1024, "embedding_length": 32, "block_count": 2}
    sizes |= {"feed_forward_length": 128, "attention.head_count": 4}
    sizes |= {"attention.layer_norm_epsilon": 1e-5}
    fields |= {f"gpt2.{name}": value for name, value in sizes.items()}
    block = {"attn_norm": (32,), "attn_qkv": (96, 32), "attn_output": (32, 32)}
    block |= {"ffn_norm": (32,), "ffn_up": (128, 32), "ffn_down": (32, 128)}
    tensors = dict.fromkeys(gguf_files.shapes())
    tensors |= {"token_embd.weight": (len(gguf_files.TOKENS), 32)}
    tensors |= {"position_embd.weight": (1024, 32)}
    tensors |= {"output_norm.weight": (32,), "output_norm.bias": (32,)}
    for name, shape in block.items():
        for i in range(2):
            tensors |= {f"blk.{i}.{name}.weight": shape, f"blk.{i}.{name}.bias": shape[:1]}
    file = gguf_files.write(tmp_path / "m.gguf", fields, tensors, "gpt2")

    opened = open_checkpoint(file)

    stored = {tensor.name: torch.tensor(tensor.data) for tensor in gguf.GGUFReader(file).tensors}
    names = {"attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output"}
    names |= {"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    for i in range(2):
        for ours, theirs in names.items():
            found = opened.weight(f"transformer.h.{i}.{ours}")
            assert torch.equal(found, stored[f"blk.{i}.{theirs}.weight"])


def test_a_gguf_file_gives_its_types_and_its_bytes(tmp_path, cache):
    file = gguf_files.write(tmp_path / "m.gguf")

    opened = open_checkpoint(file)

    assert opened.form.startswith("GGUF, ")
    sizes = opened.stored()
    linears = [n for n in sizes if n.endswith("proj.weight")]
    assert linears and all(sizes[n].values > 0 for n in linears)
    assert sum(size.values for size in sizes.values()) < file.stat().st_size


def test_the_names_of_a_gguf_files_tensors_follow_its_architecture(tmp_path, cache, monkeypatch):
    """gemma3 in the file is gemma3_text in the config."""
    of_llama = {k: v for k, v in gguf_files.FIELDS.items() if k.startswith("llama.")}
    width = gguf_files.HIDDEN // gguf_files.FIELDS["llama.attention.head_count"]
    fields = {k.replace("llama.", "gemma3."): v for k, v in of_llama.items()}
    fields |= dict.fromkeys(of_llama) | {"gemma3.attention.key_length": width}
    norms = dict.fromkeys(("post_attention", "post_ffw"), (gguf_files.HIDDEN,))
    norms |= dict.fromkeys(("attn_q", "attn_k"), (width,))
    tensors = {}
    for i in range(gguf_files.LAYERS):
        tensors |= {f"blk.{i}.{name}_norm.weight": shape for name, shape in norms.items()}
    file = gguf_files.write(tmp_path / "m.gguf", fields, tensors, "gemma3")
    sizes = open_checkpoint(file).stored()

    assert all(sizes.values()), sizes
