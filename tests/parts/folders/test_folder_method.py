"""A model made elsewhere is measured against its original like any other row."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.catalog.choice import parse_method
from bench.inputs import models
from bench.parts.folders import differences
from bench.parts.folders.differences import inspect
from bench.results.store import ReadOnlyStore
from helpers import folders, runs
from methods.contract.errors import UserError

ALL = ("*",), ()


pytestmark = pytest.mark.usefixtures("cache")


def with_tensors(folder, change):
    runs.tiny(folder)
    file = folder / "model.safetensors"
    changed = {n: t.contiguous() for n, t in change(load_file(file)).items()}
    save_file(changed, file, metadata={"format": "pt"})
    return folder


def masked(keep):
    """keep(weight) -> the mask of each linear. A product leaves -0.0."""
    return lambda tensors: {
        n: t * keep(t) if n.endswith("proj.weight") else t for n, t in tensors.items()
    }


def test_a_row_beside_its_original(tmp_path):
    pruned = with_tensors(tmp_path / "m", masked(lambda w: torch.arange(w.shape[1]) % 4 < 2))
    tensors = load_file(pruned / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 2
    save_file(tensors, pruned / "model.safetensors", metadata={"format": "pt"})
    folders.config(rope_parameters={"rope_theta": 5000.0, "rope_type": "default"})(pruned)
    label = f"folder:path={pruned}"
    measures = ("perplexity", "agreement", "size")

    found = runs.measured(tmp_path / "r", methods=(label,), measures=measures)

    rows = [record for record in found.values() if record.identity.method == label]
    assert {r.status for r in rows} == {"ok"} and {r.identity.pattern for r in rows} == {"2:4"}
    by_measure = {r.identity.measure: r for r in rows}
    assert set(by_measure) == {*measures, "pattern"}
    notes = by_measure["pattern"].notes
    assert notes["differences"]["tensors_changed"] == ["model.norm.weight"]
    (line,) = notes["differences"]["config"]
    assert line.startswith("rope_parameters: ") and "10000.0" in line and "5000.0" in line
    assert notes["negative_zeros_stored"] > 0
    values = {r.metric: r.value for r in by_measure["size"].readings}
    assert values["sparsity"] == 0.5 and values["bits_per_weight"] == 17
    assert {r.metric: r.value for r in by_measure["agreement"].readings}["kl"] > 0.1
    assert by_measure["size"].key_inputs["stages"][0]["config"]["sha256"]
    store = ReadOnlyStore(tmp_path / "r")
    assert len(list(store)) == len(found) and not store.damaged


def test_a_tied_head_of_other_values_is_refused(tmp_path, refused):
    """transformers would load it, and what is written would lack it."""

    def headed(name, factor):
        head = lambda tensors: {"lm_head.weight": factor * tensors["model.embed_tokens.weight"]}  # noqa: E731
        return with_tensors(tmp_path / name, lambda tensors: tensors | head(tensors))

    wide = with_tensors(
        tmp_path / "wide", lambda tensors: tensors | {"lm_head.weight": torch.zeros(1, 2)}
    )
    assert "their values differ" in refused("plan", "--model", wide)
    same, other = headed("same", 1), headed("other", 2)
    assert inspect(same, "same", models.resolve(str(same)), *ALL).pattern == "dense"
    for line in (("plan", "--model", other), ("plan", "--methods", f"folder:path={other}")):
        assert "ties lm_head.weight to the embedding, and their values differ" in refused(*line)


@pytest.mark.parametrize(
    ("keep", "pattern"),
    [
        (lambda w: torch.arange(w.shape[1]) % 8 < 4, "pairs:4:8"),
        (lambda w: torch.isin(torch.arange(w.shape[1]) % 8, torch.tensor([0, 1, 2, 4])), "4:8"),
        (lambda w: torch.arange(w.shape[1]) % 4 == 0, "1:4"),
        (lambda w: w.abs() > w.abs().flatten().kthvalue(int(0.6 * w.numel())).values, "60%"),
        (
            lambda w: (
                torch.arange(len(w))[:, None] >= (len(w) // 2 if w.shape[0] < w.shape[1] else 0)
            ),
            "dense",
        ),
        (lambda w: w == w, "dense"),
    ],
)
def test_the_pattern_is_named(keep, pattern, tmp_path):
    found = inspect(
        with_tensors(tmp_path / "m", masked(keep)), pattern, models.resolve("tiny"), *ALL
    )

    assert found.pattern == pattern
    assert inspect(tmp_path / "m", pattern, models.resolve("tiny"), *ALL) == found


def test_a_difference_behind_the_first_characters_of_a_long_value_is_shown(tmp_path):
    long = {"rope_type": "llama3", **{f"a{k}": 0 for k in range(30)}}
    before, after = (
        {"rope_parameters": long | {"theta": 500000.0}},
        {"rope_parameters": long | {"theta": 10000.0}},
    )
    (line,) = differences._config_differences(before, after)

    assert '"theta": 500000.0} -> ' in line and line.endswith('"theta": 10000.0}')


def test_a_model_with_fewer_layers_is_measured(tmp_path):
    """Layers that another tool dropped."""
    short = with_tensors(
        tmp_path / "m", lambda tensors: {n: t for n, t in tensors.items() if ".layers.3." not in n}
    )
    folders.config(num_hidden_layers=3)(short)
    label = f"folder:path={short}"

    got = runs.measured(tmp_path / "r", only=(label,), methods=(label,), measures=("agreement",))

    found = {r.identity.measure: r for r in got.values()}
    assert found["agreement"].status == "ok"
    listed = found["pattern"].notes["differences"]
    assert any(".layers.3." in name for name in listed["tensors_missing"])
    assert any(line.startswith("num_hidden_layers: 4 -> 3") for line in listed["config"])


def other_tokens(folder):
    about = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = about["model"]["vocab"]
    first, second, *_ = sorted(vocabulary, key=vocabulary.get)[300:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (folder / "tokenizer.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (other_tokens, "so the two models read other tokens"),
        (folders.config(auto_map={"AutoModel": "x.Y"}), "auto_map is "),
        (folders.config(num_hidden_layers=5), "says 5 layers"),
        (
            folders.config(model_type="gemma3", vocab_size=None),
            "architecture 'gemma3' is not supported",
        ),
        (lambda folder: shutil.rmtree(folder), "does not exist"),
        (folders.text("adapter_config.json", '{"peft_type": "IA3"}'), "only 'LORA' is merged here"),
        (folders.cut("model.safetensors", 1000), "model.safetensors as safetensors (Error"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_loaded(damage, said, tmp_path):
    damage(runs.tiny(tmp_path / "m"))

    with pytest.raises(UserError) as fault:
        runs.run_here(runs.small(tmp_path / "r", methods=(f"folder:path={tmp_path / 'm'}",)))

    assert said in str(fault.value)


@pytest.mark.parametrize("text", ["folder", "folder:path=", "folder:path=x:from=wanda"])
def test_the_folder_must_be_named(text):
    with pytest.raises(UserError, match="name its folder, folder:path=DIR"):
        parse_method(text)


def test_another_number_of_logits_is_skipped_for_kl_alone(tmp_path):
    """Rows that another tool added to the vocabulary."""
    rows = 64

    def padded(tensors):
        wide = {n for n in tensors if n.startswith(("model.embed_tokens", "lm_head"))}
        return {n: torch.cat([t, t[:rows]]) if n in wide else t for n, t in tensors.items()}

    folder = with_tensors(tmp_path / "m", padded)
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    folders.config(vocab_size=size + rows)(folder)
    label = f"folder:path={folder}"

    got = runs.measured(
        tmp_path / "r", only=(label,), methods=(label,), measures=("perplexity", "agreement")
    )

    found = {r.identity.measure: r for r in got.values()}
    assert found["perplexity"].status == "ok"
    assert found["agreement"].status == "skipped"
    assert "KL needs one vocabulary" in found["agreement"].reason
    assert any(
        line.startswith("vocab_size") for line in found["pattern"].notes["differences"]["config"]
    )
