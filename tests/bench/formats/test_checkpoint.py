"""Each format gives the weights that a naive packer put in, and the bytes that lie on disk."""

import json
import shutil
from functools import partial

import gguf
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from bench.formats.checkpoint import content_digest
from bench.formats.opening import open_checkpoint
from bench.inputs import architecture
from bench.parts.compressed_tensors.codec import CompressedTensorsScheme
from bench.parts.gptq.codec import GptqScheme
from helpers import gguf_files, models, packers
from methods.contract.errors import UserError
from methods.model.experts import unfold
from methods.model.folder import Folder
from methods.workshop.quantizing.grids import FP4

GROUPED = {
    "num_bits": 4,
    "type": "int",
    "strategy": "group",
    "group_size": packers.GROUP,
    "symmetric": False,
}
ROUNDED = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True}


def zeros_themselves(parts, dense):
    """Version 1 with z in place of z - 1: each of the eight values of a word is one more."""
    return parts | {"qzeros": parts["qzeros"] + 0x11111111}, dense


CASES = {
    "gptq-3": (lambda w: packers.gptq(w, 3), {"quant_method": "gptq", "bits": 3, "group_size": 16}),
    "awq": (packers.awq, {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"}),
    "auto-round": (
        lambda w: packers.gptq(w, 4),
        {
            "quant_method": "auto-round",
            "packing_format": "auto_round:auto_gptq",
            "bits": 4,
            "group_size": 16,
        },
    ),
    "auto-round for GPTQModel": (
        lambda w: zeros_themselves(*packers.gptq(w, 4)),
        {
            "quant_method": "auto-round",
            "packing_format": "auto_round:gptqmodel",
            "bits": 4,
            "group_size": 16,
        },
    ),
    "pack-quantized, 3 bits": (
        partial(packers.pack_quantized, bits=3),
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"g": {"weights": GROUPED | {"num_bits": 3}}},
        },
    ),
    "pack-quantized": (
        packers.pack_quantized,
        {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {
                "other": {"weights": GROUPED | {"group_size": 32}},
                "g": {"weights": GROUPED},
            },
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_quantized_folder_is_read_as_its_packer_stored_it(name, tmp_path):
    pack, about = CASES[name]
    stored = packers.folder(tmp_path / "m", pack, about)

    opened = open_checkpoint(tmp_path / "m")
    architecture.check(opened)

    assert opened.is_quantized and not opened.is_packed
    for tensor, weight in stored.items():
        assert torch.equal(opened.tensor(tensor), weight), tensor
    on_disk = (tmp_path / "m/model.safetensors").stat().st_size
    total = sum(size.values + size.others for size in opened.stored().values())
    assert 0.95 * on_disk < total < on_disk


def test_inputs_in_another_order_keep_their_groups():
    weight, order = torch.randn(32, 64), torch.randperm(64) // packers.GROUP
    parts, dense = packers.gptq(weight, 4, order)
    assert torch.equal(GptqScheme({"bits": 4, "group_size": 16}).decode(parts), dense)


def test_version_2_stores_the_zero_itself():
    weight = torch.randn(32, 64)
    parts, dense = packers.gptq(weight, 4)
    about = {"bits": 4, "group_size": 16, "checkpoint_format": "gptq_v2"}

    step = parts["scales"].T.float().repeat_interleave(16, 1)
    assert torch.allclose(GptqScheme(about).decode(parts).float(), dense.float() + step, atol=2e-3)


@pytest.mark.parametrize("size", [8, 32])
def test_a_layer_with_groups_of_another_size_is_refused(size):
    parts, _ = packers.gptq(torch.randn(32, 64), 4)
    del parts["g_idx"]
    with pytest.raises(ValueError, match=f"64 inputs have {64 // size} groups of {size}, not 4"):
        GptqScheme({"bits": 4, "group_size": size}).decode(parts)


@pytest.mark.parametrize("prefix", ["weight.", ""])
def test_a_masked_folder_is_packed(prefix, tmp_path):
    about = {
        "quant_method": "compressed-tensors",
        "sparsity_config": {"format": "sparse-24-bitmask"},
    }
    stored = packers.folder(tmp_path / "m", partial(packers.halves_of_four, prefix=prefix), about)

    opened = open_checkpoint(tmp_path / "m")

    assert opened.is_packed and not opened.is_quantized
    assert all(torch.equal(opened.tensor(name), weight) for name, weight in stored.items())


def test_kept_values_of_one_byte_are_spread_and_must_be_as_many_as_the_mask_has():
    scheme = CompressedTensorsScheme({"sparsity_config": {"format": "sparse-24-bitmask"}})
    weight = (torch.randn(4, 16) * (torch.arange(16) % 4 < 2)).to(torch.float8_e4m3fn)
    parts, _ = packers.bitmask(weight.float())
    parts["weight.compressed"] = parts["weight.compressed"].to(torch.float8_e4m3fn)
    decoded = scheme.decode(parts)
    assert decoded.dtype == weight.dtype and torch.equal(decoded.float(), weight.float())
    with pytest.raises(ValueError, match="a mask of 32 weights for 24"):
        scheme.decode(parts | {"weight.compressed": parts["weight.compressed"][:3]})


@pytest.mark.parametrize("kind", ["nvfp4", "mxfp4"])
def test_four_bit_floats(kind):
    codes = torch.randint(0, 16, (4, 64), dtype=torch.uint8)
    table = torch.tensor([*FP4, *(-x for x in FP4)])
    parts = {"weight_packed": codes[:, ::2] | codes[:, 1::2] << 4}
    group = {"nvfp4": 16, "mxfp4": 32}[kind]
    if kind == "nvfp4":
        scale, shared = torch.rand(4, 4).to(torch.float8_e4m3fn), torch.tensor([7.0])
        parts |= {"weight_scale": scale, "weight_global_scale": shared}
        wide = scale.float() / shared
    else:
        parts["weight_scale"] = torch.randint(120, 130, (4, 2), dtype=torch.uint8)
        wide = 2.0 ** (parts["weight_scale"].float() - 127)
    weights = {"num_bits": 4, "type": "float", "strategy": "group", "group_size": group}
    about = {"format": f"{kind}-pack-quantized", "config_groups": {"g": {"weights": weights}}}

    found = CompressedTensorsScheme(about).decode(parts)

    expected = table[codes.long()] * wide.repeat_interleave(group, 1)
    assert torch.equal(found, expected.bfloat16())


@pytest.mark.parametrize(
    ("strategy", "shape"), [("channel", (8, 1)), ("tensor", (1,)), ("block", (2, 2))]
)
def test_scales_of_a_row_of_a_tensor_and_of_blocks(strategy, shape):
    values, scale = torch.randn(8, 16).to(torch.float8_e4m3fn), torch.rand(shape)
    weights = {"num_bits": 8, "type": "float", "strategy": strategy}
    weights |= {"block_structure": [4, 8]} if strategy == "block" else {}
    about = {"format": "float-quantized", "config_groups": {"g": {"weights": weights}}}

    found = CompressedTensorsScheme(about).decode({"weight": values, "weight_scale": scale})

    wide = scale.repeat_interleave(4, 0).repeat_interleave(8, 1) if strategy == "block" else scale
    assert torch.equal(found, values.float() * wide)


def test_a_dense_weight_beside_a_scale_is_refused():
    """llm-compressor writes it with save_compressed=False. A product with the scale is another
    model."""
    scheme, parts = CompressedTensorsScheme({"format": "dense"}), {"weight": torch.ones(2, 2)}
    assert torch.equal(scheme.decode(parts), parts["weight"])
    with pytest.raises(ValueError, match="stored dense has a scale: save it compressed"):
        scheme.decode(parts | {"weight_scale": torch.ones(2, 1)})


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_is_added_to_its_original(rslora, tmp_path):
    name, rank = "model.layers.0.self_attn.q_proj", 4
    original = Folder(packers.TINY)
    rows, width = original.shapes()[f"{name}.weight"]
    a, b = torch.randn(rank, width), torch.randn(rows, rank)
    tensors = {
        f"base_model.model.{name}.lora_A.weight": a,
        f"base_model.model.{name}.lora_B.weight": b,
    }
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    about = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "use_rslora": rslora}
    (tmp_path / "adapter_config.json").write_text(json.dumps(about))

    opened = open_checkpoint(tmp_path, original)

    expected = original.tensor(f"{name}.weight") + (8 / rank**0.5 if rslora else 2) * b @ a
    assert torch.allclose(opened.tensor(f"{name}.weight"), expected, atol=1e-5)
    untouched = "model.layers.1.self_attn.q_proj.weight"
    assert torch.equal(opened.tensor(untouched), original.tensor(untouched))


@pytest.mark.parametrize(
    "patterns",
    [
        {"k_proj|q_proj": 32, "layers.0.self_attn.q_proj": 4},
        {r"^model\.layers\.0\..*": 2, "q_proj": 64},
    ],
)
def test_patterns_of_alphas_match_as_in_peft(patterns, tmp_path):
    config = peft.LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "k_proj"],
        alpha_pattern=patterns,
        init_lora_weights=False,
    )
    load = partial(AutoModelForCausalLM.from_pretrained, packers.TINY)
    peft.get_peft_model(load(), config).save_pretrained(tmp_path)

    opened = open_checkpoint(tmp_path, Folder(packers.TINY))

    # Saved and loaded, because peft sorts the patterns when it saves them.
    merged = peft.PeftModel.from_pretrained(load(), tmp_path).merge_and_unload().state_dict()
    for name in opened:
        assert torch.allclose(opened.tensor(name), merged[name], atol=1e-5), name


@pytest.mark.parametrize("saved", [None, ["embed_tokens"]])
def test_an_embedding_that_is_trained_without_its_tied_head_is_refused(saved, tmp_path):
    """peft loads the embedding of `save_embedding_layers` in place, so that the head follows."""
    name, original = "model.embed_tokens.weight", Folder(packers.TINY)
    save_file(
        {f"base_model.model.{name}": 2 * original.tensor(name)},
        tmp_path / "adapter_model.safetensors",
    )
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "modules_to_save": saved})
    )
    if saved:
        with pytest.raises(UserError, match="peft does not tie the head to it"):
            open_checkpoint(tmp_path, original)
    else:
        assert torch.equal(
            open_checkpoint(tmp_path, original).tensor(name), 2 * original.tensor(name)
        )


def test_an_adapter_of_gpt2_is_merged_as_in_peft(tmp_path):
    """Its factors are [out, in], and a module that was trained whole is [in, out]."""
    folder = models.random_folder("gpt2", tmp_path / "m")
    load = partial(AutoModelForCausalLM.from_pretrained, folder)
    config = peft.LoraConfig(
        r=4,
        target_modules=["c_attn"],
        modules_to_save=["c_fc"],
        fan_in_fan_out=True,
        init_lora_weights=False,
    )
    trained = peft.get_peft_model(load(), config)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "modules_to_save" in name:
                parameter.mul_(2)
    trained.save_pretrained(tmp_path / "adapter")

    opened = open_checkpoint(tmp_path / "adapter", Folder(folder))

    merged = unfold(
        peft.PeftModel.from_pretrained(load(), tmp_path / "adapter").merge_and_unload()
    ).state_dict()
    for name in opened:
        assert torch.allclose(opened.tensor(name), merged[name], atol=1e-5), name


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"alpha_pattern": [1]}, "alpha_pattern is [1], not an object"),
        ({"alpha_pattern": {"(": 1}}, "( in alpha_pattern"),
        ({"init_lora_weights": "pissa_niter_4"}, "starts from 'pissa_niter_4'"),
        ({"init_lora_weights": "OLoRA"}, "starts from 'OLoRA'"),
        ({"init_lora_weights": "lora_ga"}, "starts from 'lora_ga'"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is [1]"),
    ],
)
def test_an_adapter_that_peft_reads_in_another_way_is_refused(about, said, tmp_path):
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {
        f"{name}.lora_A.weight": torch.zeros(4, 128),
        f"{name}.lora_B.weight": torch.zeros(128, 4),
    }
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4} | about))

    with pytest.raises(UserError) as fault:
        open_checkpoint(tmp_path, Folder(packers.TINY))

    assert said in str(fault.value)


def test_a_gguf_file_of_gpt2_has_its_weights_out_by_in(tmp_path, cache):
    """transformers turns them for its Conv1D, and the folder in the cache has them turned."""
    sizes = {
        "context_length": 1024,
        "embedding_length": 32,
        "block_count": 2,
        "feed_forward_length": 128,
    }
    sizes |= {"attention.head_count": 4, "attention.layer_norm_epsilon": 1e-5}
    fields = {name: None for name in gguf_files.FIELDS if name.startswith("llama.")}
    block = {"attn_norm": (32,), "attn_qkv": (96, 32), "attn_output": (32, 32)}
    block |= {"ffn_norm": (32,), "ffn_up": (128, 32), "ffn_down": (32, 128)}
    tensors = dict.fromkeys(gguf_files.shapes()) | {
        "token_embd.weight": (len(gguf_files.TOKENS), 32)
    }
    tensors |= {
        "position_embd.weight": (1024, 32),
        "output_norm.weight": (32,),
        "output_norm.bias": (32,),
    }
    for name, shape in block.items():
        for i in range(2):
            tensors |= {f"blk.{i}.{name}.weight": shape, f"blk.{i}.{name}.bias": shape[:1]}
    fields |= {f"gpt2.{name}": value for name, value in sizes.items()}
    file = gguf_files.write(tmp_path / "m.gguf", fields, tensors, "gpt2")

    opened = open_checkpoint(file)

    stored = {tensor.name: torch.tensor(tensor.data) for tensor in gguf.GGUFReader(file).tensors}
    names = {
        "attn.c_attn": "attn_qkv",
        "attn.c_proj": "attn_output",
        "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down",
    }
    for i in range(2):
        for ours, theirs in names.items():
            assert torch.equal(
                opened.weight(f"transformer.h.{i}.{ours}"), stored[f"blk.{i}.{theirs}.weight"]
            )


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
    fields = {
        f"gemma3.{k.partition('.')[2]}": v
        for k, v in gguf_files.FIELDS.items()
        if k.startswith("llama.")
    }
    fields |= dict.fromkeys((k for k in gguf_files.FIELDS if k.startswith("llama.")), None)
    fields |= {
        "gemma3.attention.key_length": gguf_files.HIDDEN
        // gguf_files.FIELDS["llama.attention.head_count"]
    }
    tensors = {
        f"blk.{i}.post_{x}_norm.weight": (gguf_files.HIDDEN,)
        for i in range(gguf_files.LAYERS)
        for x in ("attention", "ffw")
    }
    width = fields["gemma3.attention.key_length"]
    tensors |= {
        f"blk.{i}.attn_{x}_norm.weight": (width,) for i in range(gguf_files.LAYERS) for x in "qk"
    }
    file = gguf_files.write(tmp_path / "m.gguf", fields, tensors, "gemma3")
    sizes = open_checkpoint(file).stored()

    assert all(sizes.values()), sizes


def test_a_group_size_that_two_config_groups_may_mean_is_not_guessed():
    kinds = [{"weights": GROUPED | {"group_size": size}} for size in (64, 48)]
    scheme = CompressedTensorsScheme({"config_groups": dict(zip("ab", kinds, strict=True))})
    with pytest.raises(ValueError, match="2 groups of 96 inputs may be of 64 or of 48"):
        scheme.decode(
            {"weight": torch.ones(2, 96, dtype=torch.int8), "weight_scale": torch.ones(2, 2)}
        )


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"quant_method": "bitsandbytes"}, "its quant_method is 'bitsandbytes'"),
        ({"quant_method": ["awq"]}, "its quant_method is ['awq']"),
        ({"quant_method": "gptq", "bits": 5}, "bits=5"),
        ({"quant_method": "gptq", "bits": 4}, "no quantized weight"),
        ({"quant_method": "awq", "bits": 4, "version": "gemv"}, "'gemv'"),
        ({"quant_method": "compressed-tensors", "format": "marlin-24"}, "'marlin-24'"),
        ({"quant_method": "compressed-tensors", "config_groups": 3}, "is invalid"),
        ({"quant_method": "compressed-tensors", "transform_config": {"a": 1}}, "transform_config"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "g": {"weights": GROUPED, "input_activations": {"num_bits": 8, "type": "int"}}
                },
            },
            "static",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "a": {"weights": GROUPED, "input_activations": ROUNDED},
                    "b": {"weights": GROUPED},
                },
            },
            "several input_activations",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "a": {"weights": GROUPED | {"num_bits": 8}},
                    "b": {"weights": GROUPED},
                },
            },
            "several kinds of weights",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"g": {"weights": GROUPED, "output_activations": ROUNDED}},
            },
            "output_activations",
        ),
        ("gptq", "its quant_method is None"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(about, said, tmp_path):
    shutil.copytree(packers.TINY, tmp_path / "m")
    config = json.loads((tmp_path / "m/config.json").read_text())
    (tmp_path / "m/config.json").write_text(json.dumps(config | {"quantization_config": about}))

    with pytest.raises(UserError) as fault:
        open_checkpoint(tmp_path / "m")

    assert said in str(fault.value) and "plain safetensors" in str(fault.value)


@pytest.mark.parametrize(
    ("case", "part", "damage", "said"),
    [
        ("gptq-3", "scales", lambda t: t[:1, :5].contiguous(), "do not fit together"),
        ("gptq-3", "scales", Tensor.int, "are a weight of int32"),
        ("awq", "scales", lambda t: t.to(torch.float8_e4m3fn), "are a weight of float8_e4m3fn"),
        ("pack-quantized", "weight_scale", lambda t: None, "are a weight of int32"),
        ("pack-quantized", "weight_scale", lambda t: t.T.contiguous(), "for 128 rows"),
        (
            "pack-quantized",
            "weight_shape",
            lambda t: t - 8,
            r"\[128, 120\], not a float matrix \[128, 128\]",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(case, part, damage, said, tmp_path):
    packers.folder(tmp_path / "m", *CASES[case])
    file = tmp_path / "m/model.safetensors"
    tensors = load_file(file)
    name = next(n for n in tensors if n.endswith(f"q_proj.{part}"))
    changed = damage(tensors.pop(name))
    save_file(
        tensors | ({name: changed} if changed is not None else {}), file, metadata={"format": "pt"}
    )

    with pytest.raises(UserError, match=rf"the parts of .*q_proj .*{said}"):
        open_checkpoint(tmp_path / "m").tensor(name.replace(part, "weight"))


def test_the_digest_is_of_the_content(tmp_path):
    for name in ("a", "b"):
        shutil.copytree(packers.TINY, tmp_path / name)
    (tmp_path / "b/README.md").write_text("other words")
    assert content_digest(tmp_path / "a") == content_digest(tmp_path / "b")

    (tmp_path / "b/tokenizer_config.json").write_text("{}")
    assert content_digest(tmp_path / "a") != content_digest(tmp_path / "b")
