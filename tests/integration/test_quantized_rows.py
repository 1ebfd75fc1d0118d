"""Quantizers as the last stage of a run: from the command line to records and tables."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from bench import api
from bench.formats.stored import StoredFolder
from bench.inputs import loading
from bench.measures.size import Size
from bench.verify import Layer, WeightCounts
from helpers import plugins, runs
from methods.contract.codec import Storage
from methods.contract.method import Compute
from methods.contract.pattern import Pattern
from methods.workshop.quantizing.inputs import ACTIVATIONS_KEY, int8_tokens, round_inputs

BREAKS = """
for weight in (model.get_submodule(target).weight for target in job.targets):
    zero = weight == 0
    weight.masked_fill_(zero, 1e-3)
    weight[0, zero[0]] = -0.0
return Outcome(model)
"""
"""A float zero point: no weight stays zero. In the first row of each linear, the zeros become -0.0
instead."""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    ends = {"breaks": BREAKS, "wanders": f"model.model.norm.weight.mul_(2){BREAKS}"}
    return plugins.install(tmp_path_factory.mktemp("site"), "breaking", ends, kind="quantizers")


pytestmark = pytest.mark.usefixtures("world", "in_tmp_path")


def found(results):
    """Readings by method, quantizer, seed and metric; statuses under "status"."""
    out = {}
    for row in api.report(results).to_dict("records"):
        seed = None if row["seed"] != row["seed"] or row["seed"] is None else row["seed"]
        where = row["method"], row["quantizer"]
        out[*where, row["metric"]] = row["value"]
        out[*where, "status", row["measure"]] = row["status"], row["reason"]
        out[*where, "seed"] = seed
    return out


def test_only_what_draws_has_seeds(tmp_path):
    spec = runs.small(tmp_path / "r", quantizers=("int8", "int4-gptq"), seeds=(0, 1))
    found = [m.identity for m in api.plan(spec).measurements if m.measure == "size"]
    for method in ("dense", "magnitude"):
        seeds = [(one.quantizer, one.seed) for one in found if one.method == method]
        gptq, rtn = "int4-gptq:embed=int8", "int8:embed=int8"
        reference = [("none", None)] if method == "dense" else []
        assert sorted(seeds, key=str) == [(gptq, 0), (gptq, 1), (rtn, None), *reference]


def test_one_that_breaks_the_pattern_is_a_row_and_one_that_wanders_fails(tmp_path, cli):
    runs.run_here(
        runs.small(tmp_path / "r", quantizers=("breaks:embed=none", "wanders"), measures=("size",))
    )
    got = found(tmp_path / "r")
    targets = 802_816
    first = 4 * (6 * 128 + 352)
    """Weights in the first rows of all linears."""

    assert got["magnitude", "breaks", "status", "pattern"] == ("ok", "")
    assert got["magnitude", "breaks", "violated_groups"] == targets // 4
    assert got["magnitude", "breaks", "zeros_lost"] == (targets - first) / 2
    assert got["magnitude", "breaks", "negative_zeros"] == first / 2
    assert got["magnitude", "breaks", "bits_per_weight"] == 32, "it cannot be packed"
    _, shown, _ = cli("report", "--results", tmp_path / "r")
    assert "200,704" in shown and "399,168" in shown

    status, reason = got["magnitude", "wanders:embed=int8", "status", "pattern"]
    assert status == "failed" and "model.norm.weight changed" in reason

    runs.run_here(runs.small(tmp_path / "s", quantizers=("breaks:embed=none",), measures=("size",)))
    again = found(tmp_path / "s")
    assert again == {key: got[key] for key in again}, "from the cache, too"


@pytest.mark.parts("compressed_tensors")
def test_a_library_that_is_missing_is_skipped_with_the_way_to_get_it(tmp_path, monkeypatch, cli):
    for name in ("hqq", "hqq.core", "hqq.core.quantize", "llmcompressor"):
        monkeypatch.setitem(sys.modules, name, None)
    lacking = {"hqq": "pip install 'cast-bench[hqq]'", "torchao-int4": "no CUDA device"}
    lacking["llmcompressor-gptq"] = "[llmcompressor]"
    spec = runs.small(tmp_path / "r", quantizers=tuple(lacking), measures=("size",))
    runs.run_here(spec, only=["magnitude"])
    got = found(tmp_path / "r")

    for name, reason in lacking.items():
        status, said = got["magnitude", f"{name}:embed=int8", "status", "size"]
        assert status == "skipped" and reason in said
    _, shown, _ = cli("report", "--results", tmp_path / "r", "--format", "md")
    assert "skipped: pip install 'cast-bench&#91;hqq]'" in shown


def test_tokens_have_a_scale_each():
    x = torch.tensor([[1.0, -0.5, 0.003], [100.0, 50.2, 0.3], [0.0, 0.0, 0.0]])
    want = torch.tensor([[127, -64, 0], [127, 64, 0], [0, 0, 0]]) / 127
    torch.testing.assert_close(int8_tokens(x), want * torch.tensor([[1.0], [100.0], [0.0]]))


INT8, INT4, INT3 = (
    Storage(weights=100_000, values=b * 12_500, others=2 * s)
    for b, s in ((8, 100), (4, 1000), (3, 1000))
)
WHOLE = Storage(weights=100_000, values=6 * 12_500, is_packed=True)


@pytest.mark.parametrize(
    ("pattern", "item", "stored", "bits"),
    [
        ("dense", 4, None, 32),
        ("dense", 2, None, 16),
        ("2:4", 2, None, 9),
        ("2:4", 4, None, 17),
        ("1:4", 2, None, 5),
        ("50%", 2, None, 16),
        ("dense", 2, INT8, 8 + 0.016),
        ("2:4", 2, INT8, 5 + 0.016),
        ("2:4", 2, INT4, 3 + 0.16),
        ("dense", 4, INT3, 3 + 0.16),
        ("2:4", 2, WHOLE, 6),
        ("50%", 2, WHOLE, 6),
    ],
)
def test_bits_per_weight(pattern, item, stored, bits):
    """Of 100,000 weights in targets and 500 elsewhere."""
    sizes = {"parameters": 100_500, "bytes": item * 100_500, "layers": {"x": Layer(100_000, 0)}}
    counts = WeightCounts(Pattern.parse(pattern), **sizes)
    context = SimpleNamespace(counts=counts, storage=stored, is_dense=True)
    context.folder = runs.TINY
    read = {r.metric: r.value for r in Size().read(None, context).values}
    counts.violations = 1
    broken = {r.metric: r.value for r in Size().read(None, context).values}

    assert read["bits_per_weight"] == pytest.approx(bits)
    bitmap = 6 if stored is WHOLE else 17  # no weight is zero here
    assert read.get("bits_with_bitmap") == (bitmap if pattern == "50%" else None)
    assert read["bytes_packed"] == pytest.approx(100_000 * bits / 8 + 500 * item, abs=1)
    whole = stored.bits if stored else 8 * item
    assert broken["bits_per_weight"] == pytest.approx(whole + bits % 1)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "already quantized (gptq)"),
        ({ACTIVATIONS_KEY: {"bits": 8, "targets": []}}, "is quantized already (by cast-bench)"),
    ],
)
def test_a_model_that_is_quantized_already(config, said, refused, tmp_path):
    err = refused("run", "--quant", "int8", "--model", runs.tiny(tmp_path / "m", **config))
    assert said in err and "unquantized weights" in err


def test_prune_writes_a_folder_whose_inputs_are_rounded(tmp_path, cli, monkeypatch):
    """Compare with its weights alone, after a hook was added to each target."""
    runs.workers_here(monkeypatch)
    flags = ("--method", "magnitude", "--quant", "w8a8", "--set", "threads=1")
    code, out, err = cli("prune", *flags, "--out", tmp_path / "o")
    card = (tmp_path / "o/README.md").read_text()

    assert code == 0, err
    assert "magnitude + w8a8:embed=int8" in out and "w8a8" in card
    assert cli("verify", tmp_path / "o")[0] == 0
    assert len(StoredFolder(tmp_path / "o").targets) == 28

    rounded = loading.load(tmp_path / "o", Compute())
    config = json.loads((tmp_path / "o/config.json").read_text())
    targets = config.pop(ACTIVATIONS_KEY)["targets"]
    (tmp_path / "o/config.json").write_text(json.dumps(config))
    plain = loading.load(tmp_path / "o", Compute())
    tokens = torch.randint(500, (2, 32))
    without = plain(tokens).logits
    for name in targets:
        round_inputs(plain.get_submodule(name))

    assert len(targets) == 28
    assert torch.equal(rounded(tokens).logits, plain(tokens).logits)
    assert not torch.equal(without, plain(tokens).logits)
