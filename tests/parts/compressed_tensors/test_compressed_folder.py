"""Rows as compressed-tensors: what they store, and the logits of what transformers loads."""

import json
import re

import pytest
from safetensors.torch import load_file

from helpers import runs
from helpers.models import sample

pytestmark = pytest.mark.parts("exports")

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


@pytest.mark.parametrize("quantizer", sample(FORMATS, *FEW))
def test_transformers_loads_what_was_measured(quantizer, quantized_row, output, tmp_path):
    results, record = quantized_row(quantizer)
    out = tmp_path / "out"
    said = output("export", record.key, "--results", str(results), "--format", "compressed-tensors",
                  "--out", str(out))  # fmt: skip
    assert re.search(r"bits per weight, where the row counts \d\S* MB and \d", said)
    assert "model.embed_tokens stay floats" in said
    error = float(re.search(r"its logits differ by (\S+) of", said)[1])
    assert error <= {"w8a8": 0.05, "w8a8-smooth": 0.05, "nvfp4": 0.02, "nvfp4-gptq": 0.02,
                     "mxfp4": 0.02, "mxfp4-gptq": 0.02}.get(quantizer, 0)  # fmt: skip
    config = json.loads((out / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    assert config["quantization_config"]["format"] == FORMATS[quantizer]
    weights = load_file(out / "model.safetensors")
    if quantizer == "nvfp4":
        own, counted = map(
            float,
            re.search(
                r"(\S+) bits per weight, where the row counts \S+ MB and ([\d.]+)", said
            ).groups(),
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


def test_stored_weights_without_a_format_are_refused(quantized_row, refused, tmp_path):
    results, record = quantized_row("nf4")
    export = ("export", "--format", "compressed-tensors", "--out", tmp_path / "o")
    said = "compressed-tensors has no format for normal of 4 bits"
    assert said in refused(*export, record.key, "--results", results)
    results, record = quantized_row("nvfp4:group=32")
    said = "read nvfp4-pack-quantized with a scale for 16 weights, and here one covers 32, as under"
    assert said in refused(*export, record.key, "--results", results)
    said = "has no stored weights, of which compressed-tensors is made"
    assert said in refused(*export, runs.TINY)
    assert not (tmp_path / "o").exists()
