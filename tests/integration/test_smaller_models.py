"""Models with fewer blocks, units, heads, channels or experts, and the libraries that load them."""

import functools
import re
from importlib.util import find_spec
from itertools import product

import pytest
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM

from bench.formats.writing import export_model
from bench.inputs import loading
from bench.results.identity import chain_label
from bench.results.store import ReadOnlyStore
from bench.system.cache import cache_dir
from helpers import runs
from helpers.models import random_folder, sample
from methods.contract.method import Compute

DEPTH, WIDTH, CHANNELS = "depth", "width:heads=50%", "channels:from=rotate/pca"
STARTS = ("depth", "width/heads=50%")
AFTER = {"recon:epochs=1:lr=1e-4": "none", "retrain": "int4-gptq", "cast": "none"}
AFTER["sparsegpt"] = "int4-gptq"
CHAINS = [
    (DEPTH, "none"),
    (WIDTH, "none"),
    (CHANNELS, "none"),
    *((f"{name}:from={start}", AFTER[name]) for start, name in product(STARTS, AFTER)),
]


@pytest.fixture(scope="module")
def rows_of(tmp_path_factory):
    """rows_of(*methods) -> the records of a run on tiny with little data, all good."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("smaller")
        runs.own_cache(home, patch)
        few = {"calibration": {"sequences": 8, "seqlen": 64}, "perplexity": {"windows": 8}}
        few["training"] = {"tokens": 128, "batch": 2, "seqlen": 32}

        def make(*methods, only=None, **changes):
            results = home / f"r{len(list(home.iterdir()))}"
            runs.run_here(runs.small(results, methods=methods, **few | changes), only=only)
            rows = list(ReadOnlyStore(results))
            assert not [r.reason for r in rows if r.status != "ok"]
            return rows

        yield make


@pytest.fixture(scope="module")
def made(rows_of):
    """made(method, quantizer) -> the folder and the record of a row."""

    @functools.cache
    def make(method, quantizer):
        rows = rows_of(method, quantizers=(quantizer,), measures=("perplexity",))
        rows = [r for r in rows if r.identity.measure == "perplexity"]
        (record,) = (r for r in rows if r.identity.method != "dense")
        return cache_dir() / "artifacts" / record.artifact[:32], record

    return make


def logits(model):
    ids = torch.arange(3, 35).view(1, 32)
    with torch.inference_mode():
        return model(input_ids=ids).logits


@pytest.mark.parametrize(("method", "quantizer"), sample(CHAINS, *CHAINS[:3]))
def test_transformers_loads_what_was_measured(method, quantizer, made):
    folder, record = made(method, quantizer)

    assert record.identity.quantizer == quantizer
    assert (
        record.identity.pattern == "2:4"
        if "cast" in method or "sparsegpt" in method
        else not record.identity.pattern[0].isdigit()
    )
    model, about = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(about.values())
    assert torch.equal(logits(model), logits(loading.load(folder, Compute())))
    assert model.num_parameters() < AutoModelForCausalLM.from_pretrained(runs.TINY).num_parameters()


@pytest.mark.parametrize("method", sample([DEPTH, WIDTH, CHANNELS], DEPTH))
@pytest.mark.parts("gguf")
def test_gguf_is_an_ordinary_smaller_model(method, made, tmp_path):
    folder, _ = made(method, "none")

    said = export_model(str(folder), "gguf", tmp_path / "out", values="f16")

    loader = "llama.cpp" if find_spec("llama_cpp") else "transformers"
    assert float(re.search(rf"loaded by {loader}, its logits differ by (\S+) of", said)[1]) < 0.001
    (file,) = (tmp_path / "out").glob("*.gguf")
    reader = GGUFReader(file)
    config = loading.load(folder, Compute()).config
    names = ("block_count", "feed_forward_length", "attention.head_count")
    names = [f"llama.{name}" for name in (*names, "attention.head_count_kv")]
    sizes = [config.num_hidden_layers, config.intermediate_size, config.num_attention_heads]
    sizes.append(config.num_key_value_heads)
    assert [reader.fields[name].contents() for name in names] == sizes
    loading.convert_gguf(file, tmp_path / "back")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "back", dtype=torch.float32)
    here = loading.load(folder, Compute())
    torch.testing.assert_close(logits(back), logits(here), rtol=0, atol=0.02)


@pytest.mark.full
@pytest.mark.parametrize("method", [DEPTH, WIDTH, CHANNELS])
@pytest.mark.parts("onnx")
def test_onnxruntime_gives_the_logits(method, made, tmp_path):
    said = export_model(str(made(method, "none")[0]), "onnx", tmp_path / "out")
    assert float(re.search(r"logits in onnxruntime differ by (\S+) of", said)[1]) < 1e-3


def values_of(rows):
    return {(r.identity.method, x.metric): x.value for r in rows for x in r.readings}


def test_rows_that_follow_depth_and_width(rows_of):
    """The runner compares what is left with the source."""
    after_depth, after_width = (
        ("recon:epochs=0:from=depth", "retrain:from=depth"),
        "magnitude:from=width/heads=50%",
    )
    rows = rows_of(DEPTH, *after_depth, WIDTH, after_width, measures=("size",))
    rounded = rows_of(WIDTH, only=[WIDTH], quantizers=("int4-gptq",), measures=("size",))

    got = {(r.identity.method, r.identity.quantizer): r.identity.pattern for r in (*rows, *rounded)}
    assert got == {
        ("dense", "none"): "dense",
        (DEPTH, "none"): "depth 25%",
        **{(chain_label([DEPTH, name]), "none"): "depth 25%" for name in after_depth},
        (WIDTH, "none"): "width 25%",
        (chain_label([WIDTH, after_width]), "none"): "2:4",
        (WIDTH, "int4-gptq:embed=int8"): "width 25%",
    }
    values = values_of(rows)
    dense = values["dense", "parameters"]
    assert values[DEPTH, "parameters"] == values["depth + retrain", "parameters"] < dense
    # Of each block: 96 of 352 units and 2 of 4 heads of 32, hidden size 128.
    units, heads = (3 * 96 * 128, 4 * 64 * 128)
    assert values[WIDTH, "parameters"] == dense - 4 * (units + heads)


def test_rows_that_follow_channels(rows_of):
    """The runner compares with the rotated model."""
    after = ("magnitude:from=channels", "retrain:from=channels")
    rows = rows_of("channels", CHANNELS, *after, measures=("size", "perplexity"))

    values = values_of(rows)
    assert {r.identity.method: r.identity.pattern for r in rows} == {
        "dense": "dense",
        "channels": "channels 25%",
        "rotate:pca + channels": "channels 25%",
        "channels + magnitude": "2:4",
        "channels + retrain": "channels 25%",
    }
    assert values["channels", "parameters"] < 0.8 * values["dense", "parameters"]
    assert values["rotate:pca + channels", "perplexity"] < values["channels", "perplexity"]


def test_rows_that_follow_experts(rows_of, tmp_path):
    """What is merged is declared, and the runner compares all else with the source."""
    folder = random_folder("gpt_oss", tmp_path / "mixture")
    drop, merge = "experts:drop=25%", "experts:merge=50%:by=ream"
    rows = rows_of(
        drop,
        merge,
        "magnitude:from=experts",
        models=(str(folder),),
        measures=("size",),
        calibration={"sequences": 8, "seqlen": 64, "data": "wiki-mini"},
        perplexity={"windows": 8, "seqlen": 64, "data": "wiki-mini"},
    )
    got = {r.identity.method: r.identity.pattern for r in rows}
    assert (got[drop], got[merge], got["experts + magnitude"]) == (
        "experts 25%",
        "experts 50%",
        "2:4",
    )
    values = values_of(rows)
    assert [values[name, "experts"] for name in ("dense", drop, merge)] == [4, 3, 2]
    assert values[merge, "active_parameters"] == values[merge, "parameters"]
    assert values[drop, "active_parameters"] < values[drop, "parameters"]
