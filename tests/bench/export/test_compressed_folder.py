"""Folders in the format of compressed-tensors, loaded by transformers."""

import json
import re

import pytest
from safetensors.torch import load_file

from bench.export.compressed_folder import FORMATS
from bench.results.store import ReadOnlyStore
from helpers import runs

pytest.importorskip("compressed_tensors")
FEW = ("int4-rtn", "w8a8", "nvfp4")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """made(quantizer) -> the record of tiny's size under it, by magnitude, in a cache of the module."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("compressed")
        runs.own_cache(folder, patch)

        def make(quantizer):
            spec = runs.small(folder / quantizer.replace(":", "_"), quantizers=(quantizer,), measures=("size",))
            runs.run_here(spec, only=("magnitude",))
            (record,) = (r for r in ReadOnlyStore(spec.results) if r.identity.measure == "size")
            return spec.results, record

        yield make


@pytest.mark.parametrize(
    "quantizer", [q if q in FEW else pytest.param(q, marks=pytest.mark.full) for q in (*FORMATS, "int4-rtn:group=16")]
)
def test_transformers_loads_what_was_measured(quantizer, made, cli, tmp_path):
    results, record = made(quantizer)
    out = tmp_path / "out"
    code, said, err = cli(
        "export", record.key, "--results", str(results), "--format", "compressed-tensors", "--out", str(out)
    )

    assert code == 0, err
    error = float(re.search(r"its logits differ by (\S+) of", said)[1])
    assert error <= {"w8a8": 0.05, "nvfp4": 0.02, "nvfp4-gptq": 0.02, "mxfp4": 0.02, "mxfp4-gptq": 0.02}.get(
        quantizer, 0
    )
    config = json.loads((out / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "compressed-tensors"
    assert config["quantization_config"]["format"] == FORMATS[quantizer.split(":")[0]].name
    weights = load_file(out / "model.safetensors")
    packed = weights["model.layers.0.mlp.up_proj." + ("weight" if quantizer in ("w8a8", "fp8") else "weight_packed")]
    assert packed.nbytes == 352 * 128 * (1 if quantizer in ("int8", "w8a8", "fp8") else 0.5)


@pytest.mark.parametrize("quantizer", ["nf4", "none"])
def test_a_quantizer_without_a_format_is_refused(quantizer, made, cli, tmp_path):
    results, record = made(quantizer)
    code, _, err = cli(
        "export", record.key, "--results", str(results), "--format", "compressed-tensors", "--out", str(tmp_path / "o")
    )
    assert code == 2
    assert f"quantizer {quantizer} has no format of compressed-tensors" in err
    assert not (tmp_path / "o").exists()


def test_a_folder_without_a_record_is_refused(cli, tmp_path):
    code, _, err = cli("export", str(runs.TINY), "--format", "compressed-tensors", "--out", str(tmp_path / "o"))
    assert code == 2
    assert "name the record of a quantized row" in err
