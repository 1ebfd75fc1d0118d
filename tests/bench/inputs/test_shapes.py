"""Models that are not here, from their shapes or their config alone."""

import json

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
