"""Rows in the layouts of GPTQ and AWQ: what they store, and what float16 cannot hold."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file

from bench.formats.writing import export_model
from bench.inputs import loading
from bench.parts.gptq import gptq_folder
from bench.parts.gptq.codec import GptqCodec
from bench.verify import CheckFailed
from helpers import runs
from methods.contract.errors import UserError
from methods.model.folder import Folder

pytestmark = pytest.mark.parts("exports")


@pytest.mark.parametrize(("kind", "sizes"), [("awq", "4"), ("gptq", "2, 3, 4, 8")])
def test_stored_weights_that_are_no_integers_are_refused(
    kind, sizes, quantized_row, refused, tmp_path
):
    results, record = quantized_row("nf4")
    export = ("export", "--format", kind, "--out", tmp_path / "o")
    said = f"{kind} has integers of {sizes} bits, and these weights are normal of 4 bits"
    assert said in refused(*export, record.key, "--results", results)
    assert f"has no stored weights, of which {kind} is made" in refused(*export, runs.TINY)
    assert not (tmp_path / "o").exists()


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
def test_a_folder_with_integers_holds_the_row(kind, quantizer, bits, quantized_row, tmp_path):
    """Each linear reads back bit for bit. Linears of two widths get groups of one size."""
    results, record = quantized_row(quantizer)
    said = export_model(record.key, kind, tmp_path / "out", results=results)

    assert "28 linears stored as" in said and "read back bit for bit" in said
    found = float(re.search(r"([\d.]+) bits per weight, where", said)[1])
    assert found == pytest.approx(bits, rel=0.03)
    about = json.loads((tmp_path / "out/config.json").read_text())
    assert about["quantization_config"]["group_size"] == (-1 if quantizer == "int8" else 32)
    assert about["dtype"] == "float16"
    weights = load_file(tmp_path / "out/model.safetensors")
    got = {w.dtype for n, w in weights.items() if not n.endswith(("qweight", "qzeros", "g_idx"))}
    assert got == {torch.float16}
    assert not [n for n in weights if n.endswith("_proj.weight")]


@pytest.mark.parametrize("kind", ["gptq", "awq"])
@pytest.mark.parametrize(
    ("by", "fault", "said"),
    [
        (1e5, UserError,
         "model.norm.weight has values beyond float16, .*: use --format compressed-tensors"),
        (6e4, CheckFailed, "this model overflows in float16, .*: use --format compressed-tensors"),
    ],
)  # fmt: skip
def test_a_model_that_float16_cannot_hold_is_refused(
    kind, by, fault, said, quantized_row, tmp_path, monkeypatch
):
    results, record = quantized_row("int4-rtn")
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
    quantized_row, tmp_path, monkeypatch
):
    results, record = quantized_row("int4-rtn")
    monkeypatch.setattr(gptq_folder, "memory_bytes", lambda: 0)
    monkeypatch.setattr(loading, "load", None)
    said = export_model(record.key, "awq", tmp_path / "out", results=results)

    assert "not computed in float16, because the model takes more than half of the memory" in said


def test_a_scale_too_small_for_float16_is_no_silent_change(quantized_row, tmp_path, monkeypatch):
    results, record = quantized_row("int4-rtn")
    encode = GptqCodec.encode
    monkeypatch.setattr(
        GptqCodec,
        "encode",
        lambda codec, codes, scales, name: encode(codec, codes, scales * 2**-30, name),
    )
    with pytest.raises(CheckFailed, match="reads back with other values"):
        export_model(record.key, "gptq", tmp_path / "out", results=results)
    assert not (tmp_path / "out").exists()
