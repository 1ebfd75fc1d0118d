"""A config must match its tensors: a missing tensor, another shape or another size is refused in
every family."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, OPTConfig, Qwen3Config

from bench.inputs import architecture, loading, models
from bench.inputs.shapes import planned_model
from helpers.models import GROUPED, SIZES
from methods.contract.errors import UserError
from methods.contract.method import Compute
from methods.model.folder import Folder
from methods.model.targets import find_targets

SMALL = SIZES | {"ffn_dim": 64}
VARIANTS = {
    "biased llama": lambda: LlamaConfig(**GROUPED, attention_bias=True, mlp_bias=True),
    "tied llama": lambda: LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "wide heads": lambda: LlamaConfig(**GROUPED, head_dim=16),
    "biased qwen3": lambda: Qwen3Config(**GROUPED, head_dim=8, attention_bias=True),
    "projected opt": lambda: OPTConfig(**SMALL, word_embed_proj_dim=16, do_layer_norm_before=False),
    "plain opt": lambda: OPTConfig(**SMALL, enable_bias=False, layer_norm_elementwise_affine=False),
    "unbiased gpt_neox": lambda: GPTNeoXConfig(**SIZES, attention_bias=False),
}


def test_every_family_is_known_and_fits(family, make, keep_as, tmp_path):
    architecture.check(Folder(keep_as(make(family), tmp_path / "m")))


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_fit(variant, keep_as, tmp_path):
    model = AutoModelForCausalLM.from_config(VARIANTS[variant]())
    architecture.check(Folder(keep_as(model, tmp_path / "m")))


def test_no_tensor_may_be_missing_or_of_another_shape(family, make, keep_as, tmp_path):
    folder = keep_as(make(family), tmp_path / "m")
    file = folder / "model.safetensors"
    tensors = load_file(file)
    first_block_and_outside = [n for n in tensors if ".1." not in n and ".2." not in n]

    for name in first_block_and_outside:
        save_file({n: t for n, t in tensors.items() if n != name}, file)
        missing = name.replace("lm_head", "(lm_head|embed_out)") + "|layers"
        with pytest.raises(UserError, match=missing):
            architecture.check(Folder(folder))
        *outer, inner = tensors[name].shape
        save_file(tensors | {name: torch.zeros(*outer, inner + 1)}, file)
        own = name.removesuffix("_bias").replace("experts.", "experts.0.")
        with pytest.raises(UserError, match=rf"^({name}|{own}.(weight|bias)) in "):
            architecture.check(Folder(folder))


def test_a_number_of_an_expert_is_no_number_of_experts(make, keep_as, tmp_path):
    """Names and configs are untrusted: neither a huge number in them nor the names that it asks for
    may be made."""
    folder = keep_as(make("mixtral"), tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    path = next(n for n in tensors if ".experts." in n).partition("experts.")[0]
    for number in ("16777215", "9" * 5000):
        extra = {f"{path}experts.{number}.down_proj.weight": torch.zeros(2, 2)}
        save_file(tensors | extra, folder / "model.safetensors")
        for claimed in (config["num_local_experts"], 16777216):
            (folder / "config.json").write_text(json.dumps(config | {"num_local_experts": claimed}))
            with pytest.raises(UserError):
                architecture.check(Folder(folder))
            with pytest.raises(UserError):
                find_targets(Folder(folder).config, Folder(folder).shapes())


@pytest.mark.parametrize("huge", [{"num_hidden_layers": 16777216}, {"num_local_experts": 16777216}])
def test_a_config_alone_names_no_more_tensors_than_a_model_can_have(huge, make, keep_as, tmp_path):
    folder = keep_as(make("mixtral"), tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan/config.json").write_text(json.dumps(config | huge))
    with pytest.raises(UserError, match=r"more than a model can have|from 1 to 4096"):
        planned_model(str(tmp_path / "plan"))


def test_weights_of_whole_numbers_are_refused(family, make, keep_as, tmp_path):
    folder = keep_as(make(family), tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name].to(torch.int32)}, folder / "model.safetensors")
    with pytest.raises(UserError, match=rf"^{name} in .* is I32"):
        architecture.check(Folder(folder))


def test_no_size_of_a_config_may_be_missing_or_another(family, make, keep_as, tmp_path):
    folder = keep_as(make(family), tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    sizes = {"vocab_size", "hidden_size", "n_embd", "intermediate_size", "ffn_dim"}
    sizes |= {"num_hidden_layers", "n_layer", "moe_intermediate_size", "num_local_experts"}

    for key in sizes & set(config):
        if family in ("opt", "qwen3_moe") and key == "intermediate_size":
            continue  # they go by ffn_dim and moe_intermediate_size
        for value in (config[key] + 1, config[key] * 10**6, 0, -1, "4", [4], 4.5, True, None):
            (folder / "config.json").write_text(json.dumps(config | {key: value}))
            with pytest.raises(UserError):
                architecture.check(Folder(folder))


def test_code_of_their_own_is_left_alone_where_transformers_has_it(make, keep_as, tmp_path):
    """Entries of families can allow auto_map in config.json. The code that it names is never
    run."""
    own = {"auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}}
    for family in ("phi3", "llama"):
        config = keep_as(make(family), tmp_path / family) / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | own))
    assert models.resolve(str(tmp_path / "phi3")).folder == tmp_path / "phi3"
    loaded = loading.load(tmp_path / "phi3", Compute())
    assert type(loaded).__module__ == "transformers.models.phi3.modeling_phi3"
    with pytest.raises(UserError, match="auto_map"):
        models.resolve(str(tmp_path / "llama"))


def test_an_unknown_family_is_left_to_others(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bloom"}')
    save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors")
    architecture.check(Folder(tmp_path))
