"""Rows in the formats of other engines: what they store, and the logits of what loads there."""

import json
import re

import pytest
import torch
from gguf import GGUFReader, quants
from safetensors.torch import load_file

from bench.export import deployed, gguf_file, gptq_folder
from bench.export.model import export_model
from bench.inputs import loading, windows
from bench.results.artifacts import find_pruned
from bench.results.store import ReadOnlyStore
from bench.verify import CheckFailed
from helpers import folders, packers, runs
from helpers.models import sample
from methods.contract.errors import UserError
from methods.contract.method import Compute
from methods.model.folder import Folder

pytest.importorskip("compressed_tensors")
FEW = ("int4-awq", "w8a8", "nvfp4")
FORMATS = {
    **dict.fromkeys(
        ("int8", "int4-rtn", "int4-gptq", "int4-awq", "int4-rtn:group=16"), "pack-quantized"
    ),
    **dict.fromkeys(("w8a8", "w8a8-smooth"), "int-quantized"),
    "fp8": "float-quantized",
    **dict.fromkeys(("mxfp4", "mxfp4-gptq"), "mxfp4-pack-quantized"),
    **dict.fromkeys(("nvfp4", "nvfp4-gptq"), "nvfp4-pack-quantized"),
}
"""Formats of compressed-tensors by quantizer."""
PRUNED = ("magnitude", "awq + magnitude", "smooth + magnitude")
"""Methods of the rows that are exported. Two quantizers have a transform of their own."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """made(quantizer) -> the record of tiny's size under it, by magnitude, in a cache of the
    module."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("compressed")
        runs.own_cache(folder, patch)

        def make(quantizer, dtype="auto"):
            results = folder / f"{quantizer.replace(':', '_')}-{dtype}"
            spec = runs.small(results, quantizers=(quantizer,), measures=("size",), dtype=dtype)
            runs.run_here(spec, only=PRUNED)
            (record,) = (r for r in ReadOnlyStore(spec.results) if r.identity.measure == "size")
            return spec.results, record

        yield make


@pytest.mark.parametrize("quantizer", sample(FORMATS, *FEW))
def test_transformers_loads_what_was_measured(quantizer, made, output, tmp_path):
    results, record = made(quantizer)
    out = tmp_path / "out"
    said = output(
        "export",
        record.key,
        "--results",
        str(results),
        "--format",
        "compressed-tensors",
        "--out",
        str(out),
    )
    assert re.search(r"bits per weight, where the row counts \d", said)
    error = float(re.search(r"its logits differ by (\S+) of", said)[1])
    assert error <= {
        "w8a8": 0.05,
        "w8a8-smooth": 0.05,
        "nvfp4": 0.02,
        "nvfp4-gptq": 0.02,
        "mxfp4": 0.02,
        "mxfp4-gptq": 0.02,
    }.get(quantizer, 0)
    config = json.loads((out / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    assert config["quantization_config"]["format"] == FORMATS[quantizer]
    weights = load_file(out / "model.safetensors")
    if quantizer == "nvfp4":
        own, counted = map(
            float, re.search(r"(\S+) bits per weight, where the row counts (\S+)", said).groups()
        )
        assert own == pytest.approx(counted + 1, abs=1e-4), (
            "2:4 saves one of 4 bits, and both count each tensor's scale"
        )
        assert "; 28 of them differ in the last bit of bfloat16" in said
    eight = quantizer in ("int8", "w8a8", "w8a8-smooth", "fp8")
    packed = weights[
        "model.layers.0.mlp.up_proj."
        + ("weight" if eight and quantizer != "int8" else "weight_packed")
    ]
    assert packed.nbytes == 352 * 128 * (1 if eight else 0.5)


def test_stored_weights_without_a_format_are_refused(made, refused, tmp_path):
    results, record = made("nf4")
    for format_, said in (
        ("compressed-tensors", "compressed-tensors has no format for normal of 4 bits"),
        ("awq", "awq has integers of 4 bits, and these weights are normal of 4 bits"),
        ("gptq", "gptq has integers of 2, 3, 4, 8 bits, and these weights are normal of 4 bits"),
    ):
        assert said in refused(
            "export", record.key, "--results", results, "--format", format_, "--out", tmp_path / "o"
        )
        assert f"has no stored weights, of which {format_} is made" in refused(
            "export", runs.TINY, "--format", format_, "--out", tmp_path / "o"
        )
    assert not (tmp_path / "o").exists()


def stored(bits, group=16):
    codes = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (32, 64)).float()
    return codes, (torch.rand(32, 64 // group) + 1).half().float()


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_gptq_is_packed_as_a_naive_packer_does(bits):
    codes, scales = stored(bits)
    parts = gptq_folder.gptq_parts(codes, scales, bits, "x")

    rows = (codes + 2 ** (bits - 1)).int().tolist()
    assert parts["qweight"].T.tolist() == [packers.words(row, bits) for row in rows]
    zero = packers.words([2 ** (bits - 1) - 1] * 32, bits)
    assert parts["qzeros"].tolist() == [zero] * 4
    assert torch.equal(parts["scales"].float(), scales.T)
    assert parts["g_idx"].tolist() == [i // 16 for i in range(64)]


def test_awq_is_packed_as_a_naive_packer_does():
    codes, scales = stored(4)
    parts = gptq_folder.awq_parts(codes, scales, 4, "x")

    lanes = (codes.T + 8).int().unflatten(1, (-1, 8))[..., list(packers.AWQ_LANES)].flatten(1)
    assert parts["qweight"].tolist() == [packers.words(row, 4) for row in lanes.tolist()]
    assert parts["qzeros"].tolist() == [packers.words([8] * 32, 4)] * 4


@pytest.mark.parametrize(
    ("kind", "quantizer", "bits"),
    [
        ("gptq", "int4-rtn", 4.8),
        ("awq", "int4-rtn", 4.625),
        *(
            pytest.param("gptq", q, b, marks=pytest.mark.full)
            for q, b in (("int3-gptq", 3.77), ("int8", 8.34))
        ),
    ],
)
def test_a_folder_with_integers_holds_the_row(kind, quantizer, bits, made, tmp_path):
    """Each linear reads back bit for bit. Linears of two widths get groups of one size."""
    results, record = made(quantizer)
    said = export_model(record.key, kind, tmp_path / "out", results=results)

    assert "28 linears stored as" in said and "read back bit for bit" in said
    assert float(re.search(r"([\d.]+) bits per weight, where", said)[1]) == pytest.approx(
        bits, rel=0.03
    )
    about = json.loads((tmp_path / "out/config.json").read_text())
    assert about["quantization_config"]["group_size"] == (-1 if quantizer == "int8" else 32)
    assert about["dtype"] == "float16"
    weights = load_file(tmp_path / "out/model.safetensors")
    assert {
        w.dtype for n, w in weights.items() if not n.endswith(("qweight", "qzeros", "g_idx"))
    } == {torch.float16}
    assert not [n for n in weights if n.endswith("_proj.weight")]


@pytest.mark.parametrize("kind", ["gptq", "awq"])
@pytest.mark.parametrize(
    ("by", "fault", "said"),
    [
        (
            1e5,
            UserError,
            "model.norm.weight has values beyond float16, .*: use --format compressed-tensors",
        ),
        (6e4, CheckFailed, "this model overflows in float16, .*: use --format compressed-tensors"),
    ],
)
def test_a_model_that_float16_cannot_hold_is_refused(
    kind, by, fault, said, made, tmp_path, monkeypatch
):
    """Its final norm is large, or what that makes of the hidden states."""
    results, record = made("int4-rtn")
    read = Folder.tensor
    norm = "model.norm.weight"
    monkeypatch.setattr(
        Folder,
        "tensor",
        lambda f, n, *a: torch.full_like(read(f, n), by) if n == norm else read(f, n, *a),
    )
    load = loading.load

    def loaded(folder, compute):
        model = load(folder, compute)
        model.model.norm.weight.data.fill_(by)
        return model

    monkeypatch.setattr(loading, "load", loaded)
    with pytest.raises(fault, match=said):
        export_model(record.key, kind, tmp_path / "out", results=results)
    assert not (tmp_path / "out").exists()


def test_a_model_larger_than_half_of_the_memory_is_exported_without_a_load(
    made, tmp_path, monkeypatch
):
    results, record = made("int4-rtn")
    monkeypatch.setattr(deployed, "memory_bytes", lambda: 0)
    monkeypatch.setattr(loading, "load", None)
    said = export_model(record.key, "awq", tmp_path / "out", results=results)

    assert "not computed in float16, because the model takes more than half of the memory" in said


def test_a_scale_too_small_for_float16_is_no_silent_change(made, tmp_path, monkeypatch):
    results, record = made("int4-rtn")
    integers = gptq_folder.integers_of

    def small(stored):
        whole = integers(stored)
        return whole._replace(scales=whole.scales * 2**-30)

    monkeypatch.setattr(gptq_folder, "integers_of", small)
    with pytest.raises(Exception, match="reads back with other values"):
        export_model(record.key, "gptq", tmp_path / "out", results=results)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("quantizer", "kind", "bits", "dtype"),
    [("int4-rtn", "q4_0", 4.5, "float32"), ("int8", "q8_0", 8.5, "bfloat16")],
)
def test_gguf_holds_the_integers_of_the_row(quantizer, kind, bits, dtype, made, tmp_path):
    results, record = made(quantizer, dtype)
    said = export_model(record.key, "gguf", tmp_path / "out", results=results)

    assert f"28 linears stored as {kind}, bit for bit" in said
    assert f"{bits} bits per weight, where the row counts" in said
    read = {t.name: t for t in GGUFReader(tmp_path / f"out/model-{kind}.gguf").tensors}
    folder = Folder(find_pruned(record.key, results)[0])
    for i, leaf, theirs in ((0, "self_attn.v_proj", "attn_v"), (3, "mlp.down_proj", "ffn_down")):
        tensor = read[f"blk.{i}.{theirs}.weight"]
        got = torch.from_numpy(quants.dequantize(tensor.data, tensor.tensor_type))
        stored = folder.tensor(f"model.layers.{i}.{leaf}.weight")
        assert tensor.tensor_type.name == kind.upper()
        assert torch.equal(got.to(stored.dtype), stored)
    assert read["token_embd.weight"].tensor_type.name == "F16"


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
        (folders.config(rope_scaling="linear"), "not an object"),
        (folders.config(rope_parameters={"rope_theta": [1]}), "not a number"),
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
    """Change keys of tokenizer.json."""

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


def test_rounding_at_run_time_is_no_gguf(tmp_path):
    folder = runs.tiny(tmp_path / "m", cast_bench_cache={"bits": 8})
    with pytest.raises(
        UserError,
        match="rounds keys and values while it runs, which no GGUF file says: use --format hf",
    ):
        export_model(str(folder), "gguf", tmp_path / "out")


def test_an_importance_matrix_is_the_mean_square_of_the_inputs(monkeypatch):
    monkeypatch.setattr(deployed, "IMATRIX_SEQUENCES", 4)
    targets = [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.self_attn.v_proj",
        "model.layers.1.mlp.down_proj",
    ]
    found = deployed._measure_importance(runs.TINY, targets, "wiki-mini")

    assert list(found) == ["blk.0.attn_q.weight", "blk.0.attn_v.weight", "blk.1.ffn_down.weight"]
    model, tokenizer = loading.load(runs.TINY, Compute()), loading.load_tokenizer(runs.TINY)
    crops = windows.draw_calibration(
        "wiki-mini", 4, 128, 0, lambda text: tokenizer(text)["input_ids"], None
    )
    inputs = model.model.layers[0].input_layernorm(model.model.embed_tokens(torch.tensor(crops)))
    torch.testing.assert_close(found["blk.0.attn_q.weight"], inputs.square().mean((0, 1)))
    assert torch.equal(found["blk.0.attn_q.weight"], found["blk.0.attn_v.weight"])
    assert found["blk.1.ffn_down.weight"].shape == (352,)


def test_integers_are_no_dense_weights(tmp_path, refused):
    folder = runs.tiny(tmp_path / "m", quantization_config={"quant_method": "gptq"})

    assert "already quantized (gptq)" in refused(
        "export", folder, "--format", "hf", "--out", tmp_path / "o"
    )
    assert not (tmp_path / "o").exists()
