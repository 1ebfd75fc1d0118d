"""Rows as GGUF: what a file stores, and the logits of what loads it."""

import json
import re
import sys

import pytest
import torch
from gguf import GGUFReader

from bench.formats.opening import open_checkpoint
from bench.formats.writing import export_model
from bench.inputs import loading, windows
from bench.parts.gguf import gguf_export, gguf_file
from bench.parts.gguf.k_quants import GgmlCodec
from bench.reporting.labelled_rows import labelled_rows
from bench.results.artifacts import find_pruned
from bench.results.store import ReadOnlyStore
from bench.verify import CheckFailed
from helpers import folders, runs
from methods.contract.errors import UserError
from methods.contract.method import Compute
from methods.model.folder import Folder

pytestmark = pytest.mark.parts("exports")


@pytest.mark.parametrize(
    ("quantizer", "kind", "bits", "dtype"),
    [("int4-rtn", "q4_0", 4.5, "float32"), ("int8", "q8_0", 8.5, "bfloat16")],
)
def test_gguf_holds_the_integers_of_the_row(quantizer, kind, bits, dtype, quantized_row, tmp_path):
    results, record = quantized_row(quantizer, dtype)
    said = export_model(record.key, "gguf", tmp_path / "out", results=results)

    assert f"28 linears stored as {kind}, bit for bit" in said
    assert f"{bits} bits per weight, where the row counts" in said
    file = tmp_path / f"out/model-{kind}.gguf"
    read = {t.name: t for t in GGUFReader(file).tensors}
    opened = open_checkpoint(file)
    folder = Folder(find_pruned(record.key, results)[0])
    for i, leaf, theirs in ((0, "self_attn.v_proj", "attn_v"), (3, "mlp.down_proj", "ffn_down")):
        tensor = read[f"blk.{i}.{theirs}.weight"]
        got = GgmlCodec(kind.upper()).decode({"blocks": torch.tensor(tensor.data)})
        stored = folder.tensor(f"model.layers.{i}.{leaf}.weight")
        assert tensor.tensor_type.name == kind.upper()
        assert torch.equal(got.to(stored.dtype), stored)
        assert torch.equal(got, opened.weight(f"model.layers.{i}.{leaf}"))
    embedding = read["token_embd.weight"]
    got = GgmlCodec("Q8_0").decode({"blocks": torch.tensor(embedding.data)})
    assert embedding.tensor_type.name == "Q8_0"
    assert torch.equal(got.to(stored.dtype), folder.tensor("model.embed_tokens.weight"))


def test_gguf_says_what_it_rounds_and_has_transformers_numbers_for_a_config_without_them(tmp_path):
    folders.config(max_position_embeddings=None, rms_norm_eps=None)(runs.tiny(tmp_path / "m"))
    said = export_model(str(tmp_path / "m"), "gguf", tmp_path / "out", values="q8_0")
    assert "28 linears stored as q8_0; 28 of them rounded to it" in said
    assert 0 < float(re.search(r"its logits differ by (\S+) of", said)[1]) < 0.05
    assert "8.5 bits per weight" in said


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (folders.text("tokenizer.json", "[]"), "cannot use"),
        (folders.config(num_attention_heads=None), "no num_attention_heads"),
        (folders.config(rope_scaling="linear"), "must be a table"),
        (folders.config(rope_parameters={"rope_theta": [1]}), "must be a number"),
        (folders.text("tokenizer_config.json", "[" * 100_000), "cannot use"),
    ],
)
def test_a_damaged_folder_is_no_gguf(damage, said, refused, tmp_path):
    damage(runs.tiny(tmp_path / "m"))

    assert said in refused("export", tmp_path / "m", "--format", "gguf", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def split(**options):
    """Return the steps of tiny's tokenizer with other options."""
    steps = (
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    )
    return {
        "type": "Sequence",
        "pretokenizers": [{k: options.get(k, v) for k, v in step.items()} for step in steps],
    }


def tokenizer(**keys):
    def change(folder):
        file = folder / "tokenizer.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | keys))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            folders.config(hidden_act="gelu"),
            "has the activation gelu, and llama.cpp computes silu: use --format hf",
        ),
        (tokenizer(normalizer={"type": "NFKC"}), 'is not written as GGUF ([{"type": "NFKC"}'),
        (tokenizer(pre_tokenizer=split(individual_digits=False)), '"individual_digits": false'),
        (tokenizer(pre_tokenizer=split(use_regex=False)), '"use_regex": false'),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_no_gguf(change, said, refused, tmp_path):
    """The sentence that is compared after an export has the same tokens with each of these
    tokenizers."""
    change(runs.tiny(tmp_path / "m"))

    assert said in refused("export", tmp_path / "m", "--format", "gguf", "--out", tmp_path / "out")


def test_another_model_is_no_rounding_to_float16(tmp_path, monkeypatch):
    """A model with another activation is off by 0.18, which only integers may be."""
    monkeypatch.setattr(gguf_file, "_require_plain", lambda *_: None)
    folders.config(hidden_act="gelu")(runs.tiny(tmp_path / "m"))

    with pytest.raises(CheckFailed, match=r"may change by 0\.0"):
        export_model(str(tmp_path / "m"), "gguf", tmp_path / "out")


def test_llama_cpp_writes_k_quants(tmp_path):
    pytest.importorskip("llama_cpp")
    assert "by llama.cpp" in export_model(str(runs.TINY), "gguf", tmp_path / "out", values="q4_k_m")


def test_iq2_needs_an_importance_matrix(tmp_path):
    """llama.cpp ends the process where the scores of a matrix are missing."""
    with pytest.raises(UserError, match="makes iq2_xxs with an importance matrix alone"):
        export_model(str(runs.TINY), "gguf", tmp_path / "out", values="iq2_xxs")


def test_llama_3_1_needs_llama_cpp(monkeypatch, tmp_path):
    """transformers would read the file without the stretched waves."""
    stretched = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
                 "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
    folder = runs.tiny(tmp_path / "m", rope_parameters=stretched)
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(UserError, match="as GGUF needs the package llama_cpp"):
        export_model(str(folder), "gguf", tmp_path / "out")


def test_rounding_at_run_time_is_no_gguf(tmp_path):
    folder = runs.tiny(tmp_path / "m", cast_bench_cache={"bits": 8})
    with pytest.raises(UserError, match="rounds keys and values while it runs"):
        export_model(str(folder), "gguf", tmp_path / "out")


def test_an_importance_matrix_is_the_mean_square_of_the_inputs(monkeypatch):
    monkeypatch.setattr(gguf_export, "IMATRIX_SEQUENCES", 4)
    targets = ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj",
               "model.layers.1.mlp.down_proj"]  # fmt: skip
    found = gguf_export._measure_importance(runs.TINY, targets, "wiki-mini")

    assert list(found) == ["blk.0.attn_q.weight", "blk.0.attn_v.weight", "blk.1.ffn_down.weight"]
    model, tokenizer = loading.load(runs.TINY, Compute()), loading.load_tokenizer(runs.TINY)
    crops = windows.draw_calibration(
        "wiki-mini", 4, 128, 0, lambda text: tokenizer(text)["input_ids"], None
    )
    inputs = model.model.layers[0].input_layernorm(model.model.embed_tokens(torch.tensor(crops)))
    torch.testing.assert_close(found["blk.0.attn_q.weight"], inputs.square().mean((0, 1)))
    assert torch.equal(found["blk.0.attn_q.weight"], found["blk.0.attn_v.weight"])
    assert found["blk.1.ffn_down.weight"].shape == (352,)


def test_the_file_that_a_model_was_read_from_is_a_row(tmp_path, world):
    export_model(str(runs.tiny(tmp_path / "m")), "gguf", tmp_path / "out", values="q8_0")
    file = tmp_path / "out/model-q8_0.gguf"
    spec = runs.small(tmp_path / "r", models=(str(file),), measures=("size",))
    runs.run_here(spec, only=["dense"])

    rows = labelled_rows(ReadOnlyStore(spec.results))
    read = {row["metric"]: row["value"] for row in rows if row["quantizer"] == "Q8_0 file"}
    assert read["bits_per_weight"] == 8.5
    assert read["bytes_packed"] == sum(int(tensor.n_bytes) for tensor in GGUFReader(file).tensors)
    assert read["bits_per_parameter"] == 8 * read["bytes_packed"] / read["parameters"]
