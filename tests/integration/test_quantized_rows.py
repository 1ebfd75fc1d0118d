"""Quantizers as the last stage of a run: from the command line to records and tables."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from bench import api
from bench.execution.build import Builder
from bench.inputs import loading
from bench.measures.size import Size
from bench.verify import Layer, WeightCounts
from helpers import runs
from methods.contract import Compute
from methods.pattern import Pattern
from methods.quantizing.stored import ACTIVATIONS_KEY, Stored, int8_tokens

BREAKS = '''
from dataclasses import dataclass
from typing import ClassVar

from methods.contract import Needs, Outcome


@dataclass(frozen=True)
class Breaks:
    """A float zero point: no weight stays zero. In the first row of each linear, the zeros become -0.0 instead."""

    needs: ClassVar[Needs] = Needs.NOTHING

    def apply(self, model, job):
        for weight in (model.get_submodule(target).weight for target in job.targets):
            zero = weight == 0
            weight.masked_fill_(zero, 1e-3)
            weight[0, zero[0]] = -0.0
        return Outcome(model)


@dataclass(frozen=True)
class Wanders(Breaks):
    """Rounds what is none of its business."""

    def apply(self, model, job):
        model.model.norm.weight.mul_(2)
        return super().apply(model, job)
'''


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    names = {"breaks": "breaking:Breaks", "wanders": "breaking:Wanders"}
    return runs.distribution(tmp_path_factory.mktemp("site"), "breaking", BREAKS, quantizers=names)


@pytest.fixture(autouse=True)
def cache(installed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield from runs.world(installed, tmp_path, monkeypatch)


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


@pytest.mark.full
def test_run_on_tiny(tmp_path, cli):
    """Everything but the worker's process, which other tests start."""
    spec = runs.small(tmp_path / "r", quantizers=("none", "int8", "int4-gptq"), perplexity={"windows": 2})
    runs.run_here(spec)
    got = found(tmp_path / "r")

    for method, pattern in (("dense", "dense"), ("magnitude", "2:4")):
        plain = got[method, "none", "perplexity"]
        assert abs(got[method, "int8", "perplexity"] / plain - 1) < 0.02
        assert abs(got[method, "int4-gptq", "perplexity"] / plain - 1) < 0.15
        for quantizer in ("int8", "int4-gptq"):
            assert got[method, quantizer, "perplexity"] != plain
            assert got[method, quantizer, "violated_groups"] == got[method, quantizer, "negative_zeros"] == 0
            assert got.get((method, quantizer, "zeros_lost")) == (0 if pattern == "2:4" else None)
    assert got["magnitude", "int8", "bits_per_weight"] == pytest.approx(5.1, abs=0.05)
    assert (
        got["magnitude", "int8", "bytes_packed"]
        < got["dense", "int8", "bytes_packed"]
        < got["magnitude", "none", "bytes_packed"]
    )

    _, shown, _ = cli("report", "--results", tmp_path / "r", "--format", "md")
    assert "| method | pattern | quantizer |" in shown and "zeros lost" in shown and "bits per weight" in shown
    _, again, _ = cli(
        "run",
        "--methods",
        "magnitude",
        "--quant",
        "none,int8,int4-gptq",
        *runs.flags(tmp_path / "r", None, **{"perplexity.windows": 2}),
        "--measures",
        "perplexity,size",
    )
    assert "0 measurements run, 18 read" in again


def test_only_what_draws_has_seeds(tmp_path):
    measurements = api.plan(runs.small(tmp_path / "r", quantizers=("int8", "int4-gptq"), seeds=(0, 1))).measurements
    seeds = {}
    for measurement in measurements:
        if measurement.measure == "size":
            seeds.setdefault((measurement.identity.method, measurement.identity.quantizer), []).append(
                measurement.identity.seed
            )

    assert seeds == {
        (m, q): [None] if q == "int8" else [0, 1] for m in ("dense", "magnitude") for q in ("int8", "int4-gptq")
    }


def test_the_pruned_model_is_made_once(tmp_path, monkeypatch):
    labels = []
    real = Builder._apply
    monkeypatch.setattr(Builder, "_apply", lambda self, a, b, r: (labels.append(a.label), real(self, a, b, r))[1])

    runs.run_here(runs.small(tmp_path / "r", quantizers=("int8", "none", "nf4"), measures=("size",)))

    assert labels == [f"tiny {m}{q}" for m in ("dense", "magnitude") for q in ("", " + int8", " + nf4")]


def test_one_that_breaks_the_pattern_is_a_row_with_what_it_broke(tmp_path, cli):
    spec = runs.small(tmp_path / "r", quantizers=("breaks",), measures=("size",))
    runs.run_here(spec)
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

    runs.run_here(runs.small(tmp_path / "s", quantizers=("breaks",), measures=("size",)))
    again = found(tmp_path / "s")
    assert again == got, "from the cache, too"


def test_one_that_touches_what_is_no_target_fails(tmp_path):
    runs.run_here(runs.small(tmp_path / "r", quantizers=("wanders",), measures=("size",)))

    status, reason = found(tmp_path / "r")["magnitude", "wanders", "status", "pattern"]
    assert status == "failed" and "model.norm.weight changed, and it is neither a target nor declared" in reason


def test_a_library_that_is_missing_is_skipped_with_the_way_to_get_it(tmp_path, monkeypatch, cli):
    for name in ("hqq", "hqq.core", "hqq.core.quantize", "llmcompressor"):
        monkeypatch.setitem(sys.modules, name, None)
    quantizers = ("hqq", "llmcompressor-gptq", "torchao-int4")
    runs.run_here(runs.small(tmp_path / "r", quantizers=quantizers, measures=("size",)))
    got = found(tmp_path / "r")

    for name, reason in zip(quantizers, ("[hqq]", "[llmcompressor]", "no CUDA device"), strict=True):
        status, said = got["magnitude", name, "status", "size"]
        assert status == "skipped" and reason in said
    assert "pip install" in got["magnitude", "hqq", "status", "size"][1]
    _, shown, _ = cli("report", "--results", tmp_path / "r", "--format", "md")
    assert "skipped: pip install 'cast-bench&#91;hqq]'" in shown and "skipped: no CUDA device" in shown


@pytest.mark.full
@pytest.mark.numeric
def test_w8a8_rounds_the_inputs_of_its_targets(tmp_path):
    """The folder's logits are those of its weights with every target's input rounded naively; int8's are not."""
    spec = runs.small(tmp_path / "r", quantizers=("w8a8", "int8"), measures=("size",))
    built = {}
    for measurements in api.make_plan(spec).artifacts().values():
        artifact = measurements[0].artifact
        if artifact.method == "magnitude":
            builder = Builder(artifact, SimpleNamespace(phase="", advance=lambda *_, **__: None, enter=lambda _: None))
            built[artifact.quantizer] = builder.build(artifact).folder
    tokens = torch.randint(500, (2, 32))
    model, plain = (loading.load(built[q], Compute()) for q in ("w8a8", "int8"))
    same = model.state_dict()
    assert all(torch.equal(t, same[n]) for n, t in plain.state_dict().items())
    got, without = model(tokens).logits, plain(tokens).logits
    levels = []

    class Naive(torch.nn.Linear):
        def forward(self, x):
            out = torch.empty_like(x)
            for where in range(x[..., 0].numel()):
                token = x.reshape(-1, x.shape[-1])[where].double()
                scale = token.abs().max() / 127
                out.view(-1, x.shape[-1])[where] = torch.round(token / scale) * scale
            levels.append(len(out[0, 0].unique()))
            return super().forward(out)

    config = json.loads((built["w8a8"] / "config.json").read_text())
    for name in config[ACTIVATIONS_KEY]["targets"]:
        plain.get_submodule(name).__class__ = Naive

    want = plain(tokens).logits
    assert (got - want).abs().mean() < 0.1 * (got - without).abs().mean()  # a near-tie may round the other way
    assert max(levels) <= 255 and len(config[ACTIVATIONS_KEY]["targets"]) == 28


def test_tokens_have_a_scale_each():
    x = torch.tensor([[1.0, -0.5, 0.003], [100.0, 50.2, 0.3], [0.0, 0.0, 0.0]])

    want = torch.tensor([[127, -64, 0], [127, 64, 0], [0, 0, 0]]) / 127 * torch.tensor([[1.0], [100.0], [0.0]])
    torch.testing.assert_close(int8_tokens(x), want)


INT8, INT4, INT3 = (Stored(bits=b, scale_bits=16, scales=s) for b, s in ((8, 100), (4, 1000), (3, 1000)))


@pytest.mark.parametrize(
    ("pattern", "item", "stored", "bits"),
    [
        ("dense", 4, None, 32), ("dense", 2, None, 16), ("2:4", 2, None, 9), ("2:4", 4, None, 17), ("1:4", 2, None, 5),
        ("50%", 2, None, 16), ("dense", 2, INT8, 8 + 0.016), ("2:4", 2, INT8, 5 + 0.016), ("2:4", 2, INT4, 3 + 0.16),
        ("dense", 4, INT3, 3 + 0.16),
    ],
)  # fmt: skip
def test_bits_per_weight(pattern, item, stored, bits):
    """Of 100,000 weights in targets and 500 elsewhere."""
    counts = WeightCounts(
        Pattern.parse(pattern), parameters=100_500, bytes=item * 100_500, layers={"x": Layer(100_000, 0)}
    )
    read = {r.metric: r.value for r in Size().read(None, SimpleNamespace(counts=counts, storage=stored)).values}
    counts.violations = 1
    broken = {r.metric: r.value for r in Size().read(None, SimpleNamespace(counts=counts, storage=stored)).values}

    assert read["bits_per_weight"] == pytest.approx(bits)
    assert read["bytes_packed"] == pytest.approx(100_000 * bits / 8 + 500 * item, abs=1)
    assert broken["bits_per_weight"] == pytest.approx((stored.bits if stored else 8 * item) + (bits % 1))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("run --quant int5", ["unknown quantizer 'int5'", "int8"]),
        ("run --quant int4-gptk", ["unknown quantizer 'int4-gptk'", "int4-gptq"]),
        ("plan --quant int4-rtn:group=100", ["int4-rtn:group=100", "128", "q_proj", "leave group= out"]),
        ("plan --quant int4-gptq:group=0", ["int4-gptq:group=0", "must be a whole number between 1 and"]),
        ("run --quant int8:group=64", ["int8", "'group'"]),
        ("run --quant int8:from=magnitude", ["'magnitude'"]),
        ("plan --quant nf4:from=int8", ["nf4:from=int8", "leave from=int8 out"]),
        ("prune --method magnitude --quant int8,nf4 --out o", ["one quantizer"]),
        ("report --results r --equal-bytes --format csv", ["--equal-bytes", "csv"]),
    ],
)
def test_bad_input_is_one_sentence(args, said, cli, tmp_path):
    (tmp_path / "r").mkdir()
    code, _, err = cli(*args.split())

    assert code == 2 and len(err.splitlines()) == 1, err
    assert [s for s in said if s not in err] == [], err


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "already quantized (gptq)"),
        ({ACTIVATIONS_KEY: {"bits": 8, "targets": []}}, "is quantized already (w8a8, by cast-bench)"),
    ],
)
def test_a_model_that_is_quantized_already(config, said, cli, tmp_path):
    code, _, err = cli("run", "--quant", "int8", "--model", runs.tiny(tmp_path / "m", **config))

    assert code == 2 and len(err.splitlines()) == 1
    assert said in err and "unquantized weights" in err


def test_prune_writes_a_quantized_folder(tmp_path, cli):
    code, out, err = cli(
        "prune", "--method", "magnitude", "--quant", "w8a8", "--out", tmp_path / "o", "--set", "threads=1"
    )
    card = (tmp_path / "o/README.md").read_text()

    assert code == 0, err
    assert "magnitude + w8a8" in out and "w8a8" in card
    assert ACTIVATIONS_KEY in json.loads((tmp_path / "o/config.json").read_text())
    assert cli("verify", tmp_path / "o")[0] == 0
