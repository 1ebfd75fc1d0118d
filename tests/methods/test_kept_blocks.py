"""A model without some of its blocks: as its source computes if they are skipped, and nothing else."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from bench.execution.kept import write_blocks
from bench.verify import CheckFailed, verify
from helpers.models import CONFIGS, REPRESENTATIVES, build, sample, write
from methods.errors import UserError
from methods.folder import Folder
from methods.kept_blocks import FolderOfBlocks, count_dropped
from methods.pattern import Pattern
from methods.targets import find_targets

TOKENS = torch.arange(16)[None]


def shortened(family, tmp_path, kept):
    """A model, its folder, and the folder of some of its blocks."""
    model = build(family)
    source = tmp_path / "source"
    write(model, source)
    target = tmp_path / "target"
    target.mkdir()
    changes = write_blocks(model, source, kept, target, torch.float32)
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | changes))
    return model, source, target


@pytest.mark.parametrize("family", sample(CONFIGS, *REPRESENTATIVES))
@pytest.mark.parametrize("kept", [(0, 2), pytest.param((1,), marks=pytest.mark.full)])
@torch.inference_mode()
def test_folder_loads_and_computes_what_its_source_does_without_the_others(family, kept, tmp_path):
    model, source, target = shortened(family, tmp_path, kept)
    blocks = model.get_submodule(FolderOfBlocks(source, kept)._family.blocks)
    for i in set(range(len(blocks))) - set(kept):
        blocks[i].register_forward_hook(
            lambda _module, args, output: (args[0], *output[1:]) if isinstance(output, tuple) else args[0]
        )

    loaded = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()

    assert len(loaded.get_submodule(FolderOfBlocks(source, kept)._family.blocks)) == len(kept)
    expected, got = (m(input_ids=TOKENS, use_cache=False).logits for m in (model, loaded))
    assert not torch.equal(expected, build(family)(input_ids=TOKENS, use_cache=False).logits)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


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
    _, source, target = shortened("llama", tmp_path, (0, 2))
    before = FolderOfBlocks(source, (0, 2))
    targets = find_targets(before.config, before.shapes())
    counts = verify(before, Folder(target), Pattern(), targets, (), torch.float32, frozen=True)
    tensors = load_file(target / "model.safetensors")
    assert counts.parameters == sum(t.numel() for t in tensors.values())
    tensors[name] = change(tensors[name]).contiguous() if change else torch.zeros(2)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(CheckFailed, match=name):
        verify(before, Folder(target), Pattern(), targets, (), torch.float32, frozen=True)


def test_method_that_also_changed_a_weight_is_refused(tmp_path):
    model = build("llama")
    write(model, tmp_path / "source")
    model.model.norm.weight[0] += 1

    with pytest.raises(CheckFailed, match="also changed weights"):
        write_blocks(model, tmp_path / "source", (0, 2), tmp_path / "target", torch.float32)


@pytest.mark.parametrize(("drop", "count"), [("25%", 1), ("50%", 2), ("0%", 0), (2, 2), ("24.9%", 1), ("12.4%", 0)])
def test_share_is_rounded(drop, count):
    assert count_dropped(drop, {"model_type": "llama", "num_hidden_layers": 4}) == count


def test_all_blocks_or_blocks_that_depend_on_their_index_are_refused():
    with pytest.raises(UserError, match="at least one"):
        count_dropped(4, {"model_type": "llama", "num_hidden_layers": 4})
    with pytest.raises(UserError, match="depend on its index"):
        count_dropped(1, {"model_type": "gpt2", "n_layer": 4, "scale_attn_by_inverse_layer_idx": True})
