"""Every linear of the blocks, or a refusal."""

import re
from dataclasses import replace
from itertools import product

import pytest
import torch

from helpers.models import CONFIGS
from methods.contract.errors import UserError
from methods.contract.pattern import Pattern
from methods.model.smaller_folder import count_left
from methods.model.targets import (
    FAMILIES,
    dense_weight,
    find_targets,
    require_fit,
    require_flow,
    require_matches,
)


def shapes_of(model):
    return {name: tuple(t.shape) for name, t in model.state_dict().items()}


def test_targets_are_the_linears_of_the_blocks(family, make):
    model = make(family)
    linears = [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    outside = {"lm_head", "embed_out"}

    found = find_targets(model.config.to_dict(), shapes_of(model))

    assert len(set(found)) == len(found)
    assert set(found) == set(linears) - outside
    each, experts = len(FAMILIES[family].linears), FAMILIES[family].experts
    if experts:
        each += len(list(experts.names(getattr(model.config, experts.count))))
    assert len(found) == 3 * each


def test_targets_come_block_by_block_beyond_nine():
    names = product(range(11), FAMILIES["gpt2"].linears)
    shapes = {f"transformer.h.{i}.{linear}.weight": (4, 4) for i, linear in names}
    found = find_targets({"model_type": "gpt2"}, dict(reversed(shapes.items())))
    assert [name + ".weight" for name in found] == list(shapes)


@pytest.mark.parametrize("kind", ["bloom", "qwen2_moe", None])
def test_unknown_architecture_is_refused(kind):
    with pytest.raises(UserError, match=f"architecture {kind!r}.*q_proj.*families teach"):
        find_targets({"model_type": kind}, {"model.layers.0.self_attn.q_proj.weight": (8, 8)})
    with pytest.raises(UserError, match=f"architecture {kind!r}.*llama"):
        find_targets({"model_type": kind}, {"embedding.weight": (8, 8)})


@pytest.mark.parametrize(
    "extra", ["mlp.router.weight", "self_attn.q_proj.lora_A", "self_attn.q_proj.lora_A.weight"]
)
def test_a_block_with_a_matrix_too_many_or_too_few_is_refused(llama, extra):
    config, shapes = llama.config.to_dict(), shapes_of(llama)
    with pytest.raises(UserError, match=f"unexpected matrix model.layers.1.{extra}"):
        find_targets(config, shapes | {f"model.layers.1.{extra}": (4, 32)})
    del shapes["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(UserError, match=r"missing matrix model.layers.1.mlp.up_proj"):
        find_targets(config, shapes)


def test_include_and_exclude_are_globs(llama):
    def find(**globs):
        return find_targets(llama.config.to_dict(), shapes_of(llama), **globs)

    assert find(include=["model.layers.0.*"], exclude=["*.mlp.*", "*.k_proj"]) == (
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.v_proj",
        "model.layers.0.self_attn.o_proj",
    )
    assert len(find(exclude=["*.down_proj"])) == 18
    assert find(include=["*.1.mlp.up_proj", "*.0.mlp.up_proj"]) == (
        "model.layers.0.mlp.up_proj",
        "model.layers.1.mlp.up_proj",
    )
    assert find(include=iter(["*.0.mlp.up_proj"])) == ("model.layers.0.mlp.up_proj",)
    with pytest.raises(UserError, match="no linear matches"):
        find(include=["*.lm_head"])
    with pytest.raises(UserError, match="no linear matches"):
        find(exclude=["*"])


@pytest.mark.parametrize("glob", ["*.kk_proj", "lm_head", ""])
def test_a_glob_that_matches_no_linear_is_refused(llama, glob):
    names = find_targets(llama.config.to_dict(), shapes_of(llama))
    require_matches(["*", "*.q_proj", "*.1.*"], names, "tiny")
    with pytest.raises(UserError, match=f"of tiny matches '{re.escape(glob)}': .*model.layers.0"):
        require_matches(["*.q_proj", glob], names, "tiny")


def test_width_is_that_of_the_inputs():
    shapes = {"model.layers.0.mlp.up_proj.weight": (6, 8)}
    require_fit(Pattern(2, 8), shapes, ["model.layers.0.mlp.up_proj"])
    with pytest.raises(UserError, match=r"up_proj has 8: .*exclude='\*.up_proj'"):
        require_fit(Pattern(2, 3), shapes, ["model.layers.0.mlp.up_proj"])


def test_dense_weight_asks_a_packed_module():
    class Packed(torch.nn.Module):
        def dense_weight(self):
            return torch.ones(2, 3)

    assert torch.equal(dense_weight(Packed()), torch.ones(2, 3))


@pytest.mark.parametrize(
    ("kind", "flow", "width"),
    [
        ("mixtral", "use a model without experts", "use depth, or a model without experts"),
        ("llama", "add its flow to methods/model", "use depth, or add its width to methods/model"),
    ],
)
def test_a_family_without_a_flow_gets_its_own_way_out(kind, flow, width, monkeypatch):
    """Such is an entry of `bench families teach`."""
    monkeypatch.setitem(FAMILIES, kind, replace(FAMILIES[kind], flow=None, width=None))
    config = CONFIGS[kind]().to_dict()
    with pytest.raises(UserError, match=f"permute does not know the architecture {kind}: {flow}"):
        require_flow(config, "permute")
    with pytest.raises(UserError, match=f"{kind} has no units that can be removed: {width}"):
        count_left({"units": "25%"}, config)
