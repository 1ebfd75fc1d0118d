"""packed24 on disk: both ways, loaded by transformers, and found out when it is not what was
written."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from bench.formats.writing import export_model
from bench.parts.packed24.folder24 import MANIFEST, Folder24, Writer24
from bench.parts.packed24.packing import pack
from bench.results.store import ReadOnlyStore
from helpers.runs import own_cache, prune, run_here, small, tiny
from methods.contract.errors import UserError
from methods.model.folder import Folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with tiny, pruned and packed."""
    root = tmp_path_factory.mktemp("made")
    export_model(str(prune(tiny(root / "pruned"))), "packed24", root / "packed")
    return root


@pytest.fixture
def pruned(made, tmp_path):
    return shutil.copytree(made / "pruned", tmp_path / "pruned")


@pytest.fixture
def packed(made, tmp_path):
    return shutil.copytree(made / "packed", tmp_path / "packed")


def test_both_ways_bit_for_bit_for_every_family(make, keep_as, tmp_path, family):
    folder = prune(keep_as(make(family), tmp_path / "source"))
    output = export_model(str(folder), "packed24", tmp_path / "packed")
    assert "17 bits per weight" in output
    export_model(str(tmp_path / "packed"), "hf", tmp_path / "dense")
    before, after = Folder(folder), Folder(tmp_path / "dense")
    assert set(before) == set(after)
    assert all(torch.equal(before.tensor(n), after.tensor(n)) for n in before)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "dense")
    was = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.arange(12)[None]
    assert torch.equal(model(ids).logits, was(ids).logits)


def test_hf_is_what_transformers_loads_with_the_same_logits(pruned, tmp_path):
    config = json.loads((pruned / "config.json").read_text()) | {
        "sparsity_config": {"format": "sparse-24-bitmask"}
    }
    (pruned / "config.json").write_text(json.dumps(config))
    (pruned / "README.md").write_text("# a model card")
    export_model(str(pruned), "hf", tmp_path / "hf")
    ids = torch.arange(20)[None]
    logits = [
        AutoModelForCausalLM.from_pretrained(f)(ids).logits for f in (pruned, tmp_path / "hf")
    ]
    assert torch.equal(*logits)
    assert "sparsity_config" not in json.loads((tmp_path / "hf/config.json").read_text())
    for name in ("tokenizer.json", "README.md"):
        assert (tmp_path / "hf" / name).read_bytes() == (pruned / name).read_bytes()


def test_size_and_metadata(packed):
    about = json.loads((packed / MANIFEST).read_text())
    assert (about["format"], about["version"]) == ("packed24", 3)
    (file,) = packed.glob("*.safetensors")
    others = {path.stat().st_mode for path in packed.iterdir()}
    assert others == {file.stat().st_mode}, "not private, as safetensors makes it"
    assert file.name == "packed24-00001.safetensors"
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {"format": "packed24", "version": "3"}
        name = "model.layers.0.mlp.up_proj.weight"
        kept, mask = opened.get_tensor(name + ".values"), opened.get_tensor(name + ".mask")
    entry = Folder24(packed).entries[name]
    rows, width = entry.shape
    assert kept.shape == (rows, width // 2) and mask.shape == (rows, width // 8)
    assert "sparsity_config" not in (packed / "config.json").read_text()


@pytest.mark.parametrize("values", ["int8", "int4"])
def test_rounding_to_integers_is_said(pruned, tmp_path, values):
    output = export_model(str(pruned), "packed24", tmp_path / "a", values=values)
    assert f"28 of them were rounded to {values}" in output


def everything(folder):
    opened = Folder24(folder)
    return {name: opened.tensor(name) for name in opened}


@pytest.mark.parametrize("count", [20, pytest.param(60, marks=pytest.mark.full)])
def test_a_flipped_byte_is_found_wherever_it_is(packed, count):
    whole = everything(packed)
    caught = 0
    draw = torch.Generator().manual_seed(0)
    for file in (packed / "packed24-00001.safetensors", packed / MANIFEST):
        raw = file.read_bytes()
        places = torch.randint(len(raw), (count,), generator=draw).tolist() + list(range(8))
        for place in places:
            spoilt = bytearray(raw)
            spoilt[place] ^= 1 << place % 8
            file.write_bytes(spoilt)
            try:
                now = everything(packed)
            except UserError:
                caught += 1
            else:  # what means nothing: blanks, or safetensors' own metadata
                assert now.keys() == whole.keys()
                assert all(torch.equal(now[n], whole[n]) for n in whole)
        file.write_bytes(raw)
    assert caught > 1.6 * count
    weight = whole["model.layers.3.mlp.down_proj.weight"]
    file = packed / "packed24-00001.safetensors"
    raw = file.read_bytes()
    values = pack(weight).values.numpy().tobytes()
    at = raw.index(values[:64])
    file.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    with pytest.raises(
        UserError,
        match=r"checksum mismatch: .*3\.mlp\.down_proj\.weight\.values .* does not match packed24",
    ):
        everything(packed)


def rewrite(packed, change, sign=True):
    """packed24.json changed by somebody who knows how to sign it."""
    from bench.parts.packed24.folder24 import Manifest

    raw = json.loads((packed / MANIFEST).read_text())
    change(raw)
    if sign:
        raw["sha256"] = Manifest.model_validate(raw).digest()
    (packed / MANIFEST).write_text(json.dumps(raw))


NAME = "model.layers.0.mlp.up_proj.weight"


def entry(key, value):
    return lambda raw: raw["tensors"][NAME].update({key: value})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda raw: raw.update(version=4),
         "has version 4, and this code reads version 3: upgrade cast-bench"),
        (lambda raw: raw.update(version=2),
         "has version 2, and this code reads version 3: export it again"),
        (lambda raw: raw.update(format="other"), "cannot be read as packed24"),
        (lambda raw: raw["tensors"][NAME]["parts"]["mask"].update(file="../x.safetensors"),
         "outside its folder: refused"),
        (lambda raw: raw["tensors"][NAME]["parts"]["mask"].update(file="none.safetensors"),
         "none.safetensors cannot be read"),
        (lambda raw: raw["tensors"][NAME]["parts"].pop("mask"), "is not valid packed24"),
        (entry("shape", [352, 10**12]), "does not have the shape"),
        (entry("shape", [352]), "is not valid packed24"),
        (entry("dtype", "float16"), "does not have the shape and dtype"),
        (entry("dtype", "object"), "is not valid packed24"),
        (entry("kind", "int8"), "is not valid packed24"),
        (entry("windows", 8), "does not have the shape"),
        (entry("windows", 10**12), "is not valid packed24"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_in_a_sentence(packed, change, sentence):
    rewrite(packed, change, sign=not sentence.startswith(("has version", "cannot")))
    with pytest.raises(UserError, match=sentence):
        everything(packed)


def test_a_mask_signed_by_a_liar_is_refused(packed, tmp_path):
    weight = everything(packed)[NAME]
    lying = pack(weight)
    lying.mask[0, 0] = 0xFF
    writer = Writer24(packed)
    writer.add_packed(NAME, lying, exact=True)
    writer.close()
    with pytest.raises(UserError, match="does not keep two of every four"):
        everything(packed)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("tiny", "is not 2:4: row 0 has more than two"),
        ("packed", "is a packed24 folder: unpack it first with bench export"),
    ],
)
def test_what_cannot_be_packed_is_one_sentence(name, sentence, packed, tmp_path, refused):
    folder = tiny(tmp_path / "tiny") if name == "tiny" else packed
    assert sentence in refused("export", folder, "--format", "packed24", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_linears_left_dense(pruned, tmp_path):
    shutil.copytree(pruned, tmp_path / "mixed")
    from safetensors.torch import load_file, save_file

    file = tmp_path / "mixed/model.safetensors"
    tensors = load_file(file)
    tensors[NAME] += 1
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"layers\.0\.mlp\.up_proj\.weight is not 2:4"):
        export_model(str(tmp_path / "mixed"), "packed24", tmp_path / "out")
    output = export_model(str(tmp_path / "mixed"), "packed24", tmp_path / "out",
                          exclude=("model.layers.0.mlp.up_proj",))  # fmt: skip
    assert "27 linears packed" in output
    assert torch.equal(Folder24(tmp_path / "out").tensor(NAME), tensors[NAME])


@pytest.mark.parametrize(
    ("quantizer", "said"),
    [
        ("int8", "24 linears packed, 5.1"),
        ("int4-rtn:group=8", "24 linears packed, 5 bits per weight"),
    ],
)
def test_the_model_of_a_record_keeps_its_grid(quantizer, said, tmp_path, monkeypatch, output):
    own_cache(tmp_path, monkeypatch)
    results = tmp_path / "results"
    about = {"measures": ("size",), "targets": {"exclude": ("*.down_proj",)}}
    run_here(small(results, quantizers=(quantizer,), **about), only=("magnitude",))
    (record,) = (r for r in ReadOnlyStore(results) if r.identity.measure == "size")
    out = output(
        "export", record.key, "--format", "packed24", "--out", tmp_path / "p", "--results", results
    )
    name = quantizer.partition(":")[0].removesuffix("-rtn")
    assert said in out and f"all were on {name} grids already" in out
