"""A family taken out of the table is derived again from a model of it."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import ArceeConfig, AutoModelForCausalLM, MixtralConfig, PhiConfig, StableLmConfig

from bench.parts.families import teach
from bench.parts.families.probe import Probe, build
from helpers.models import GROUPED, TOKENS, sample
from methods.contract.errors import UserError
from methods.model.families import FAMILIES, read_families

TABLE = dict(FAMILIES)


@pytest.fixture(autouse=True)
def in_order():
    """A family that was taken out and put back would be the last."""
    yield
    FAMILIES.clear()
    FAMILIES.update(TABLE)


def without_transforms(family):
    """An entry without the parts of its flow that only transforms read."""
    return replace(family, flow=replace(family.flow, values=(), units=(), factor=""))


@pytest.fixture(
    params=sample((n for n, f in TABLE.items() if not f.experts), "gpt2", "opt", "gemma2", "phi3")
)
def plain(request):
    """A family whose entry can be derived: any but a mixture of experts."""
    return request.param


@pytest.fixture
def forgotten(plain, make, keep_as, tmp_path, monkeypatch):
    """A folder of a family that is not in the table."""
    folder = keep_as(make(plain), tmp_path / "m")
    if FAMILIES[plain].native:
        about = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(
            json.dumps(about | {"auto_map": {"AutoConfig": "its.own"}})
        )
    monkeypatch.delitem(FAMILIES, plain)
    return folder


def test_gives_back_the_entry(plain, forgotten):
    assert plain not in FAMILIES
    want = without_transforms(TABLE[plain])

    taught = teach.teach(forgotten)

    assert (taught.kind, taught.family) == (plain, want)
    assert read_families(teach.to_toml(taught)) == {plain: want}
    assert any("heads" in words for words in taught.left_out) == (not want.width.heads)
    assert plain not in FAMILIES


def test_a_known_family_is_derived_like_an_unknown_one(make, keep_as, tmp_path):
    """Its entry turns GPT-2's weights at loading."""
    got = teach.teach(keep_as(make("gpt2"), tmp_path / "m")).family

    assert got == without_transforms(TABLE["gpt2"])
    assert FAMILIES["gpt2"] is TABLE["gpt2"]


def test_an_architecture_that_was_never_here(tmp_path, keep_as):
    """Arcee's: a plain MLP of two linears, biases by a flag."""
    torch.manual_seed(0)
    folder = keep_as(
        AutoModelForCausalLM.from_config(ArceeConfig(**GROUPED, **TOKENS)), tmp_path / "m"
    )

    kind, family, _ = teach.teach(folder)

    assert kind == "arcee" and kind not in FAMILIES
    found = family.linears
    assert found == (*(f"self_attn.{x}_proj" for x in "qkvo"), "mlp.up_proj", "mlp.down_proj")
    assert set(family.when) == {"attention_bias", "mlp_bias"}


def test_an_architecture_whose_config_has_no_head_dim(tmp_path, keep_as):
    """StableLM's linears of keys and values, and Phi's norms of a head."""
    torch.manual_seed(0)
    folder = keep_as(
        AutoModelForCausalLM.from_config(StableLmConfig(**GROUPED, **TOKENS)), tmp_path / "m"
    )

    family = teach.teach(folder).family

    width = "num_key_value_heads * (hidden_size // num_attention_heads)"
    assert family.block["self_attn.k_proj.weight"] == (width, "hidden_size")
    probe = Probe(PhiConfig(**GROUPED, **TOKENS, qk_layernorm=True).to_dict())
    name = "model.layers.0.self_attn.q_layernorm.weight"
    assert probe.shape(name, probe.shapes[name]) == ("hidden_size // num_attention_heads",)


def test_a_refusal_names_the_tensor_or_the_architecture():
    probe = Probe(ArceeConfig(**GROUPED).to_dict())
    with pytest.raises(
        UserError,
        match=r"model\.x\.weight has a dimension of 997, which is no .* of .*hidden_size=",
    ):
        probe.shape("model.x.weight", (108, 997))
    with pytest.raises(UserError, match=r"^architecture 'nothing' cannot be loaded: "):
        build({"model_type": "nothing"})


def test_a_wrong_entry_fails_its_trial(make, keep_as, tmp_path, monkeypatch):
    """Granite's logits without their divisor; a linear that is not there."""
    folder = keep_as(make("granite"), tmp_path / "m")
    for change in ({"logits": {}}, {"linears": (*FAMILIES["granite"].linears, "mlp.router")}):
        with (
            pytest.raises(UserError, match=r"logits of .* are not|missing matrix"),
            teach.known_as("granite", replace(FAMILIES["granite"], **change)),
        ):
            teach.try_entry(folder)


def test_what_cannot_be_taught_is_said(tmp_path, keep_as):
    experts = tmp_path / "experts"
    config = MixtralConfig(**GROUPED, num_local_experts=4)
    keep_as(AutoModelForCausalLM.from_config(config), experts)
    with pytest.raises(UserError, match="mixture of experts"):
        teach.teach(experts)


def test_the_command_prints_the_entry(make, keep_as, tmp_path, cli, monkeypatch):
    folder = keep_as(make("granite"), tmp_path / "m")
    monkeypatch.delitem(FAMILIES, "granite")
    code, out, err = cli("families", "teach", folder)

    assert (code, err) == (0, "")
    assert out.startswith('[granite]\nblocks = "model.layers"\nlinears = ["self_attn.q_proj", ')
    assert "\nlayers =" not in out, "the default"
    assert read_families(out) == {"granite": without_transforms(TABLE["granite"])}


def test_the_list_has_every_family(cli):
    code, out, _ = cli("families", "--json")

    rows = {row["family"]: row for row in json.loads(out)}
    assert code == 0 and rows.keys() == FAMILIES.keys()
    assert rows["phi3"]["fused"] == "mlp.gate_up_proj, self_attn.qkv_proj"
    assert rows["gemma2"]["logits"] == "cap final_logit_softcapping"
    assert rows["mixtral"]["experts"] == "mlp.experts.*.gate_up_proj, mlp.experts.*.down_proj"
    assert rows["llama"]["experts"] == ""


def test_bad_folders_are_one_sentence(tmp_path, refused):
    (tmp_path / "none").mkdir()
    assert "config.json" in refused("families", "teach", tmp_path / "none")
