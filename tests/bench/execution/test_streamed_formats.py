"""A streamed model gives the records of a model in memory, whatever it is stored in and runs in."""

import pytest
import torch

from bench.catalog.parts import found_parts
from bench.execution import smaller
from bench.inputs import loading
from helpers import models, runs
from methods.contract.method import Compute
from methods.model.folder import Folder

BITS = {"float32": (32, 17), "bfloat16": (16, 9), "float16": (16, 9)}
"""Bits of a dense weight, and of a weight of a 2:4 model, by format."""
MEASURES = ("perplexity", "agreement", "zeroshot", "size")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """stored(format) -> a folder with tiny in this format."""

    def make(kind):
        folder = tmp_path_factory.mktemp("stored") / kind
        return runs.store_as(runs.tiny(folder, dtype=kind), kind)

    return make


def run(folder, tmp_path, **changes):
    """Return every record of a small run with an empty cache."""
    place = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
    with pytest.MonkeyPatch.context() as patch:
        runs.own_cache(place, patch)
        spec = {
            "models": (str(folder),),
            "perplexity": {"windows": 2, "data": "wiki-mini", "seqlen": 64},
        } | changes
        runs.run_here(runs.small(place / "results", **spec))
        return runs.contents(place / "results")


def require_same(folder, tmp_path, **changes):
    """Check that a streamed run has the records of a run in memory, and return them."""
    streamed = run(folder, tmp_path, stream=True, **changes)
    assert {r["status"] for r in streamed.values()} == {"ok"}, [
        r["traceback"] for r in streamed.values()
    ]
    assert streamed == run(folder, tmp_path, **changes)
    return streamed.values()


def bits(records, method, quantizer="none"):
    found = []
    for record in records:
        identity = record["identity"]
        if (identity["stages"][-1], identity["quantizer"]) == (method, quantizer):
            found += [r["value"] for r in record["readings"] if r["metric"] == "bits_per_weight"]
    (value,) = found
    return value


def test_a_model_is_compared_with_its_folder_in_the_format_that_is_written(stored):
    folder = Folder(stored("bfloat16"))
    model = loading.load(folder.path, Compute(dtype=torch.float32))

    with torch.no_grad():
        next(model.parameters()).mul_(1 + 2**-12)
    assert smaller.is_same(model, folder, torch.bfloat16), (
        "the change is lost when the weights are rounded"
    )
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1
    assert not smaller.is_same(model, folder, torch.bfloat16)


def test_another_format_than_the_stored_one(stored, tmp_path):
    dtype = "bfloat16"
    records = require_same(stored("float32"), tmp_path, dtype=dtype)

    assert (bits(records, "dense"), bits(records, "magnitude")) == BITS[dtype]
    assert {r["identity"]["dtype"] for r in records} == {dtype}


@pytest.mark.full
@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize("kind", BITS)
def test_every_format_and_measure(kind, dtype, stored, tmp_path):
    records = require_same(
        stored(kind),
        tmp_path,
        dtype=dtype,
        methods=("magnitude", "sparsegpt"),
        quantizers=("none", "int8", "int4-gptq"),
        measures=MEASURES,
        zeroshot={"limit": 3},
        calibration={"sequences": 2, "seqlen": 64},
    )

    assert (bits(records, "dense"), bits(records, "sparsegpt")) == BITS[dtype]
    assert bits(records, "dense", "int8:embed=int8") < 16


@pytest.mark.full
@pytest.mark.skipif("speed" not in found_parts(), reason="the part speed is not there")
@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize("kind", BITS)
def test_a_streamed_model_is_timed_as_one_in_memory(kind, dtype, stored, tmp_path):
    """Two runs have two times, so only what was timed is compared."""

    def timed(**changes):
        found = run(stored(kind), tmp_path, dtype=dtype, measures=("speed",), **changes).values()
        return sorted(
            (*r["identity"]["stages"], r["status"], *(x["metric"] for x in r["readings"]))
            for r in found
        )

    streamed = timed(stream=True)
    assert streamed == timed()
    # The kernel for 2:4 has no float32 and no float16.
    packed = {("magnitude", "ok")} if dtype == "bfloat16" else set()
    got = {(row[0], row[1]) for row in streamed if "tokens_per_s" in row}
    assert got == {("dense", "ok")} | packed


@pytest.mark.full
@pytest.mark.parametrize("kind", models.sample(BITS, "float16"))
@pytest.mark.parametrize(
    "family", models.sample(["mixtral", "gpt_oss", "gpt2", "gemma2"], "mixtral")
)
@pytest.mark.parametrize("dtype", models.sample(["auto", "bfloat16"], "auto"))
def test_mixtures_and_other_layouts(family, kind, dtype, tmp_path):
    folder = runs.store_as(models.random_folder(family, tmp_path / "model"), kind)

    changes = {"perplexity": {"windows": 2, "data": "wiki-mini", "seqlen": 32}, "dtype": dtype,
               "arithmetic": "float32"}  # fmt: skip
    records = require_same(folder, tmp_path, quantizers=("none", "w8a8"), **changes)

    wanted = kind if dtype == "auto" else dtype
    assert {r["identity"]["dtype"] for r in records} == {wanted}
    assert bits(records, "dense") == BITS[wanted][0]


@pytest.mark.full
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_a_trained_model_stays_in_its_format(kind, stored, tmp_path):
    training = {"tokens": 2 * 4 * 32, "batch": 4, "seqlen": 32}
    records = run(
        stored(kind), tmp_path, methods=("retrain",), training=training, arithmetic="float32"
    ).values()

    assert {r["status"] for r in records} == {"ok"}, [r["traceback"] for r in records]
    assert (bits(records, "dense"), bits(records, "retrain")) == BITS[kind]
    assert {r["identity"]["arithmetic"] for r in records} == {"float32"}
