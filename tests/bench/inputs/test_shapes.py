"""Models that are not here, from their shapes or their config alone."""

import json
import math

import pytest
import torch
from torch import nn

from bench import api
from bench.inputs.shapes import known_shapes, planned_model
from bench.planning.plan import make_plan
from bench.planning.spec import Spec
from methods.contract.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize("name", ["llama2-70b", "llama3-8b"])
def test_the_shapes_are_those_of_the_class_in_transformers(name):
    from transformers import AutoConfig, AutoModelForCausalLM

    model = planned_model(name)
    with torch.device("meta"):
        built: nn.Module = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**known_shapes()[name])
        )

    assert model.shapes == {n: tuple(p.shape) for n, p in built.named_parameters()}


def test_a_config_alone_is_enough(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps(known_shapes()["llama2-7b"] | {"torch_dtype": "float16"})
    )

    spec = Spec(results=tmp_path / "r", models=(str(folder),), methods=("wanda",))
    plan = api.plan(spec)

    assert {m.artifact.dtype for m in plan.measurements} == {"float16"}
    assert planned_model(str(folder)).download_bytes == 2 * 6_738_415_616
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        make_plan(spec, fetch=True)


def test_families_and_parameters_of_the_shapes():
    """Numbers of parameters from the models' pages on the hub."""
    published = {
        "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
        "mistralai/Mistral-Nemo-Instruct-2407": 12_247_782_400,
        "mistralai/Mixtral-8x7B-Instruct-v0.1": 46_702_792_704,
        "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
        "Qwen/Qwen3-8B": 8_190_735_360,
        "Qwen/Qwen3-30B-A3B": 30_532_122_624,
        "google/gemma-2-9b-it": 9_241_705_984,
        "google/gemma-3-1b-it": 999_885_952,
        "microsoft/phi-4": 14_659_507_200,
        "microsoft/Phi-4-mini-instruct": 3_836_021_760,
        "allenai/OLMo-2-1124-7B": 7_298_617_344,
        "allenai/OLMoE-1B-7B-0924": 6_919_161_856,
        "HuggingFaceTB/SmolLM3-3B": 3_075_098_624,
        "openai/gpt-oss-20b": 20_914_757_184,
    }
    counted = {}
    for name in published:
        counted[name] = sum(map(math.prod, planned_model(name).shapes.values()))

    assert counted == published
    assert len({str(config) for config in known_shapes().values()}) >= 50
    assert known_shapes()["gemma2-9b"] is known_shapes()["google/gemma-2-9b"]


def test_every_known_shape_is_of_a_known_family():
    for name in known_shapes():
        assert planned_model(name).linears


def test_the_config_of_a_hub_id_is_fetched_once_and_alone(fake_hub, monkeypatch, cli):
    config = json.dumps(known_shapes()["llama2-7b"])
    fake_hub.files = ("config.json", "model.safetensors", "tokenizer.json")
    fake_hub.contents["config.json"] = config
    for _ in range(2):
        code, _, err = cli("plan --methods wanda --quant none --model our/model --device a10")
        assert code == 0, err
        assert "our/model is not downloaded yet" in err and "of about 13 GB" in err

    assert fake_hub.fetched == ["config.json"]


def test_a_config_that_cannot_be_had_names_the_way_out(refused, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = refused("plan", "--model", "our/model")
    assert "name a folder with its config.json (bench plan --model FOLDER)" in said


@pytest.mark.parametrize("config", ["{", "[]", '{"model_type": "mamba"}'])
def test_a_config_of_the_hub_that_cannot_be_used(fake_hub, refused, config):
    fake_hub.files = ("config.json",)
    fake_hub.contents["config.json"] = config
    assert refused("plan", "--model", "our/model")
