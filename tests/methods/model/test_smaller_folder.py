"""A model without some blocks, units or heads computes what its source does without them."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from bench.execution.smaller import kept_of, write_smaller
from bench.planning.artifact import Stage
from bench.verify import CheckFailed, verify
from helpers.models import CONFIGS, REPRESENTATIVES, build, sample, write
from methods.contract.errors import UserError
from methods.contract.method import Outcome
from methods.contract.pattern import Pattern
from methods.model.families import FAMILIES
from methods.model.folder import Folder
from methods.model.smaller_folder import SmallerFolder, changed_config, count_left, reader
from methods.model.targets import dense_weight, family_of, find_targets

TOKENS = torch.arange(16)[None]


def logits(model):
    return model(input_ids=TOKENS, use_cache=False).logits


def pass_on(_module, args, output):
    """Make a block an identity."""
    return (args[0], *output[1:]) if isinstance(output, tuple) else args[0]


def smaller(family, tmp_path, kept):
    """A model, its folder, and the folder of what is kept of it."""
    model = build(family)
    source = tmp_path / "source"
    write(model, source)
    target = tmp_path / "target"
    target.mkdir()
    changes = write_smaller(model, source, kept, target, torch.float32)
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | changes))
    return model, source, target


@pytest.mark.parametrize("family", sample(CONFIGS, *REPRESENTATIVES))
@pytest.mark.parametrize("kept", [(0, 2), pytest.param((1,), marks=pytest.mark.full)])
@torch.inference_mode()
def test_folder_loads_and_computes_what_its_source_does_without_the_others(family, kept, tmp_path):
    model, _, target = smaller(family, tmp_path, {"blocks": kept})
    path = family_of(model.config.to_dict()).blocks
    blocks = model.get_submodule(path)
    for i in set(range(len(blocks))) - set(kept):
        blocks[i].register_forward_hook(pass_on)

    loaded = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()

    assert len(loaded.get_submodule(path)) == len(kept)
    expected, got = map(logits, (model, loaded))
    assert not torch.equal(expected, logits(build(family)))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


UNITS = ((0, *range(9, 56)), (*range(8, 55), 63), (*range(16, 64),))
GROUPS = ((1,), (0,), (1,))


WIDE = [f for f in CONFIGS if FAMILIES[f].width and not FAMILIES[f].experts]


@pytest.mark.parametrize("family", sample(WIDE, "llama", "gpt2", "phi3"))
@torch.inference_mode()
def test_folder_computes_what_its_source_does_without_units_and_heads(family, tmp_path):
    """Units and heads that nothing reads are as good as removed."""
    model = build(family)
    config = model.config.to_dict()
    known = family_of(config)
    size = known.size(known.width.units, config)
    units = tuple(tuple(i for i in range(size) if i % 64 in kept) for kept in UNITS)
    kept = {"units": units} | ({"heads": GROUPS} if known.width.heads else {})
    _, source, target = smaller(family, tmp_path, kept)
    for i, block in enumerate(model.get_submodule(known.blocks)):
        readers = {reader(known, known.width.units): units[i]}
        if known.width.heads:
            of, name = known.size("head_dim", config) * 2, reader(known, known.width.heads[0])
            readers[name] = [g * of + j for g in GROUPS[i] for j in range(of)]
        for name, columns in readers.items():
            weight = dense_weight(block.get_submodule(name))
            weight[:, sorted(set(range(weight.shape[1])) - set(columns))] = 0

    loaded = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()

    expected, got = map(logits, (model, loaded))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, logits(build(family)), atol=1e-4)
    assert SmallerFolder(source, kept).shapes() == Folder(target).shapes()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.layers.1.mlp.up_proj.weight", lambda t: t + 1e-3),
        ("model.layers.0.input_layernorm.weight", lambda t: -t),
        ("model.layers.1.self_attn.q_proj.weight", lambda t: t.roll(1, 0)),
        ("model.layers.2.self_attn.q_proj.weight", None),
    ],
)
def test_verify_refuses_what_is_not_the_source(name, change, tmp_path):
    kept = {"blocks": (0, 2), "units": ((*range(48),), (*range(8, 56),)), "heads": ((0,), (1,))}
    _, source, target = smaller("llama", tmp_path, kept)
    before = SmallerFolder(source, kept)
    targets = find_targets(before.config, before.shapes())
    counts = verify(before, Folder(target), Pattern(), targets, (), torch.float32, frozen=True)
    tensors = load_file(target / "model.safetensors")
    assert Folder(target).shapes() == before.shapes(), "also of units in a block that moved"
    assert counts.parameters == sum(t.numel() for t in tensors.values())
    tensors[name] = change(tensors[name]).contiguous() if change else torch.zeros(2)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(CheckFailed, match=name):
        verify(before, Folder(target), Pattern(), targets, (), torch.float32, frozen=True)


def test_method_that_also_changed_a_weight_is_refused(tmp_path):
    model = build("llama")
    write(model, tmp_path / "source")
    model.model.norm.weight[0] += 1
    folders = tmp_path / "source", {"blocks": (0, 2)}, tmp_path / "target"
    with pytest.raises(CheckFailed, match="also changed weights"):
        write_smaller(model, *folders, torch.float32)


@pytest.mark.parametrize(
    ("drop", "left"),
    [
        *(({"blocks": share}, {"blocks": n}) for share, n in (("25%", 3), ("50%", 2), (2, 2))),
        *(({"blocks": share}, {"blocks": n}) for share, n in (("24.9%", 3), ("12.4%", 4))),
        ({"units": "25%", "heads": "25%"}, {"units": 48, "heads": 1}),
        ({"units": "25%", "heads": 0}, {"units": 48, "heads": 2}),
        ({"units": "3%", "heads": "20%"}, {"units": 64, "heads": 2}),
    ],
)
def test_share_is_rounded_and_units_are_removed_in_whole_groups(drop, left):
    assert count_left(drop, CONFIGS["llama"]().to_dict() | {"num_hidden_layers": 4}) == left


def test_a_number_changes_under_the_key_that_the_config_has():
    config = {"model_type": "gpt2", "num_hidden_layers": 4, "layer_types": list("abcd")}
    assert changed_config(config, {"blocks": (0, 2)}) == {
        "num_hidden_layers": 2,
        "layer_types": ["a", "c"],
    }
    assert changed_config(config | {"n_layer": 4}, {"blocks": (0, 2)})["n_layer"] == 2


INVERSE = {"scale_attn_by_inverse_layer_idx": True}


@pytest.mark.parametrize(
    ("family", "drop", "config", "said"),
    [
        ("gpt_oss", {"units": "25%"}, {}, "gpt_oss has no units that can be removed"),
        ("olmo2", {"units": "25%", "heads": "25%"}, {}, "use width:heads=0"),
        ("gpt2", {"units": "25%", "heads": 1}, {}, "use width:heads=0"),
        ("llama", {"units": "99%", "heads": 0}, {}, "at least 8 must be left"),
        ("llama", {"units": "25%", "heads": 2}, {}, "use width:heads=N with N of 0, 1"),
        ("llama", {"blocks": 3}, {}, "at least one"),
        ("gpt2", {"blocks": 1}, INVERSE, "depend on its index"),
    ],
)
def test_what_no_model_can_lose_is_refused(family, drop, config, said):
    with pytest.raises(UserError, match=said):
        count_left(drop, CONFIGS[family]().to_dict() | config, {"heads": "width:heads"})


def test_runner_refuses_what_the_stage_does_not_say(tmp_path):
    model = build("llama")
    write(model, tmp_path)
    about = {"label": "width", "target": "", "source": "", "needs": (), "pattern": "width 25%"}
    stage = Stage(name="width", config={"heads": 0}, **about)

    for kept in (
        {"units": (range(47),) * 3},
        {"units": ((*range(47), 64),) * 3},
        {"units": ((*range(47), 46),) * 3},
        {"units": (range(48), range(48), range(47))},
        {"units": (range(48),) * 2},
        {"units": (range(48),) * 3, "heads": ((0,),) * 3},
        {"units": (range(48),) * 3, "experts": ((0,),) * 3},
        {"blocks": (0, 1)},
        {"units": 48},
        None,
    ):
        with pytest.raises(CheckFailed, match="width kept"):
            kept_of(Outcome(model, kept=kept), stage, tmp_path)
    fits = {"units": (tuple(range(48)),) * 3}
    assert kept_of(Outcome(model, kept=fits), stage, tmp_path) == fits
