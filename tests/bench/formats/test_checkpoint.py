"""Models made elsewhere: adapters, formats without a reader, and the digest of a folder."""

import json
import shutil
from functools import partial

import peft
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from bench.formats.checkpoint import content_digest
from bench.formats.opening import open_checkpoint
from helpers import models, packers
from methods.contract.errors import UserError
from methods.model.experts import unfold
from methods.model.folder import Folder


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
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "k_proj"],
                             alpha_pattern=patterns, init_lora_weights=False)  # fmt: skip
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
    config = peft.LoraConfig(r=4, target_modules=["c_attn"], modules_to_save=["c_fc"],
                             fan_in_fan_out=True, init_lora_weights=False)  # fmt: skip
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


def test_the_digest_is_of_the_content(tmp_path):
    for name in ("a", "b"):
        shutil.copytree(packers.TINY, tmp_path / name)
    (tmp_path / "b/README.md").write_text("other words")
    assert content_digest(tmp_path / "a") == content_digest(tmp_path / "b")

    (tmp_path / "b/tokenizer_config.json").write_text("{}")
    assert content_digest(tmp_path / "a") != content_digest(tmp_path / "b")


@pytest.mark.parametrize("kind", ["bitsandbytes", ["a"]])
def test_a_format_without_a_codec_is_refused_in_a_sentence(kind, tmp_path):
    said = f"no installed part reads its quant_method {kind!r}"
    assert said in packers.refusal(tmp_path / "m", {"quant_method": kind})


def test_a_file_without_a_reader_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "model.bin").touch()
    with pytest.raises(
        UserError, match=r"no installed reader opens .*model\.bin: name a model folder"
    ):
        open_checkpoint(tmp_path / "model.bin")
