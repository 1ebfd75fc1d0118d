"""Models with fewer blocks, units, heads or channels: what follows the removal, and the libraries that load the result."""

import numpy as np
import onnxruntime
import pytest
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM

from bench.export.model import export_model
from bench.inputs import loading
from bench.results.store import ReadOnlyStore
from bench.system.cache import cache_dir
from helpers import runs
from methods.contract import Compute

DEPTH, WIDTH, CHANNELS = "depth:drop=25%", "width:drop=25%:heads=50%", "channels:from=rotate/pca"
FROM = {"depth": "from=depth/drop=25%", "width": "from=width/drop=25%/heads=50%"}
CHAINS = [
    (DEPTH, "none"),
    (WIDTH, "none"),
    (CHANNELS, "none"),
    *(
        pytest.param(f"{name}:{start}", quantizer, marks=pytest.mark.full)
        for start in FROM.values()
        for name, quantizer in (
            ("recon:epochs=1:lr=1e-4", "none"), ("retrain", "int4-gptq"), ("cast", "none"), ("sparsegpt", "int4-gptq"),
        )
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """made(method, quantizer) -> the folder and the record of a row on tiny, in a cache of the module."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("smaller")
        runs.own_cache(home, patch)

        def make(method, quantizer):
            few = {"calibration": {"sequences": 4, "seqlen": 32}, "perplexity": {"windows": 1}}
            training = {"tokens": 256, "batch": 2, "seqlen": 32}
            results = home / f"{abs(hash((method, quantizer)))}"
            spec = runs.small(results, methods=(method,), quantizers=(quantizer,), training=training, **few)
            runs.run_here(spec)
            rows = [r for r in ReadOnlyStore(results) if r.identity.measure == "perplexity"]
            assert not [r.reason for r in rows if r.status != "ok"]
            (record,) = (r for r in rows if r.identity.method != "dense")
            return cache_dir() / "artifacts" / record.artifact[:32], record

        yield make


def logits(model):
    ids = torch.arange(3, 35).view(1, 32)
    with torch.inference_mode():
        return model(input_ids=ids).logits


@pytest.mark.parametrize(("method", "quantizer"), CHAINS)
def test_transformers_loads_what_was_measured(method, quantizer, made):
    folder, record = made(method, quantizer)

    assert record.identity.quantizer == quantizer
    assert (
        record.identity.pattern == "2:4"
        if "cast" in method or "sparsegpt" in method
        else not record.identity.pattern[0].isdigit()
    )
    model, about = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(about.values())
    assert torch.equal(logits(model), logits(loading.load(folder, Compute())))
    assert model.num_parameters() < AutoModelForCausalLM.from_pretrained(runs.TINY).num_parameters()


@pytest.mark.parametrize("method", [DEPTH, *(pytest.param(m, marks=pytest.mark.full) for m in (WIDTH, CHANNELS))])
def test_gguf_is_an_ordinary_smaller_model(method, made, tmp_path):
    folder, _ = made(method, "none")

    export_model(str(folder), "gguf", tmp_path / "out", values="f16")

    (file,) = (tmp_path / "out").glob("*.gguf")
    reader = GGUFReader(file)
    config = loading.load(folder, Compute()).config
    keys = {"block_count": config.num_hidden_layers, "feed_forward_length": config.intermediate_size}
    keys |= {"attention.head_count": config.num_attention_heads, "attention.head_count_kv": config.num_key_value_heads}
    assert {key: reader.fields[f"llama.{key}"].contents() for key in keys} == keys
    loading.convert_gguf(file, tmp_path / "back")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "back", dtype=torch.float32)
    torch.testing.assert_close(logits(back), logits(loading.load(folder, Compute())), rtol=0, atol=0.02)


@pytest.mark.full
@pytest.mark.parametrize("method", [DEPTH, WIDTH])
def test_onnxruntime_gives_the_logits(method, made, tmp_path):
    folder, _ = made(method, "none")

    export_model(str(folder), "onnx", tmp_path / "out")

    session = onnxruntime.InferenceSession(str(tmp_path / "out/model.onnx"), providers=["CPUExecutionProvider"])
    given = {value.name: value for value in session.get_inputs()}
    empty = {n: np.zeros([1, v.shape[1], 0, v.shape[3]], np.float32) for n, v in given.items() if "past" in n}
    ids = np.arange(3, 35)[None]
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(32)[None]} | empty
    found = dict(zip([value.name for value in session.get_outputs()], session.run(None, feed), strict=True))
    torch.testing.assert_close(
        torch.from_numpy(found["logits"]), logits(loading.load(folder, Compute())), rtol=0, atol=1e-3
    )
