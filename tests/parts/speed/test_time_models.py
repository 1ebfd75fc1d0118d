"""Whole models in several engines: real ones on a small model, their records, and sentences where
one is not here."""

import importlib
import importlib.util
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from bench.catalog import registry
from bench.inputs import models
from bench.parts.packed24 import native
from bench.parts.speed import engine_report, time_models, versions
from bench.parts.speed.comparison import Timings
from bench.parts.speed.engines.contract import Engine
from bench.parts.speed.versions import DENSE, SPARSE
from bench.results.store import ReadOnlyStore
from helpers import runs
from helpers.models import build, write
from methods.contract.errors import UserError
from methods.contract.pattern import Pattern
from methods.model.folder import Folder


def package_is_here(monkeypatch, names, is_here):
    """Makes packages seem installed, or not; all others are found as they are."""
    find = importlib.util.find_spec

    def seem(name, *package):
        return (is_here or None) if name in names else find(name, *package)

    monkeypatch.setattr(importlib.util, "find_spec", seem)


SOURCE = """
from dataclasses import replace

import torch

from bench.parts.speed.engines.contract import Contestant, Engine


class Fake(Engine):
    'Steps that take no time.'
    kinds, sparse, version, calls = {"bf16": "none", "int8": "int8"}, True, "1", 0

    def about(self):
        return {"fake": self.version}

    def contestants(self, versions, step, device, threads):
        type(self).calls += 1
        notes = {"2:4": {"layers": 3}, "dense": {}}
        return [
            Contestant(kind, side, lambda: None, notes[side])
            for kind in self.kinds
            for side in versions.sides
        ]


class Other(Fake):
    kinds, sparse = {"fp16": "none"}, False

    def contestants(self, versions, step, device, threads):
        return [Contestant("fp16", "dense", lambda: None)]


class Full(Fake):
    full_in = "a step"

    def contestants(self, versions, step, device, threads):
        for one in super().contestants(versions, step, device, threads):
            if (one.kind, one.side) == ("int8", "dense"):
                if self.full_in == "loading":
                    raise torch.OutOfMemoryError
                one = replace(one, work=self.work)
            yield one

    def work(self):
        type(self).steps += 1
        if self.full_in == "a step" or self.steps > 1:
            raise torch.OutOfMemoryError


class Faulty(Other):
    def require(self, device):
        return 1 / 0
"""


@pytest.fixture
def engines(monkeypatch, cache, installed):
    """Engines of another package, blocks of no length, and a machine whose bandwidth is known."""
    monkeypatch.setattr(time_models.Cpu, "peaks", lambda cpu: SimpleNamespace(bandwidth=1e9))
    monkeypatch.setattr(time_models, "BLOCK_S", 1e-7)
    monkeypatch.setattr(time_models, "PEAK_SIZE", 16)
    names = ("fake", "other", "full", "faulty")
    installed("fakes", SOURCE, engines={name: f"fakes:{name.capitalize()}" for name in names})
    return importlib.import_module("fakes")


def request(model, *names, tokens=(8,), threads=1):
    return time_models.ModelTimingRequest(str(model), "cpu", threads, names, tokens, None)


def measure(asked, results):
    return list(time_models.measure(asked, results, lambda line: None))


def test_each_engine_and_kind_has_a_record_of_each_step(engines, tmp_path):
    records = measure(request("tiny", "fake", "other"), tmp_path / "r")

    made = {"fake": [("bf16", "none", "2:4"), ("int8", "int8", "2:4")]}
    made["other"] = [("fp16", "none", "dense")]
    wanted = []
    for step in ("decode@b1,kv8", "prefill@8"):
        wanted += [(f"{step} in {engine}", *kind) for engine in made for kind in made[engine]]
    identities = [r.identity for r in records]
    assert [(i.protocol.label, i.dtype, i.quantizer, i.pattern) for i in identities] == wanted
    turn = [f"fake {kind} {side}" for kind in ("bf16", "int8") for side in ("2:4", "dense")]
    turn.append("other fp16 dense")
    store = ReadOnlyStore(tmp_path / "r")
    for record in records:
        protocol, notes = record.identity.protocol, record.notes
        both, decodes = protocol.engine == "fake", protocol.name == "decode"
        metrics = ["tokens_per_s"] + ["tokens_per_s_dense", "speedup"] * both
        assert [r.metric for r in record.readings] == metrics
        assert len(store.items(record).ids) == time_models.BLOCKS
        about = {"name": protocol.engine, "fake": "1"}
        assert record.key_inputs["engine"] == notes["engine"] == about
        assert set(notes["noise"]) == ({"2:4", "dense"} if both else {"dense"})
        assert notes["in_turn"] == turn
        assert notes.get("bandwidth") == (1e9 if decodes else None)
        assert notes.get("flops") == (None if decodes else 2 * 8 * 4 * 200_704)
        assert (notes.get("peak_flops", 0) > 0) != decodes
        assert notes.get("2:4") == ({"layers": 3} if both else None)
    assert identities[0].stages == ("magnitude",) and identities[2].stages == ("dense",)


def test_what_was_timed_together_is_not_timed_again_and_nothing_else_is_taken_for_it(
    engines, tmp_path, monkeypatch
):
    def keys(model="tiny", names=("fake", "other"), **changes):
        asked = replace(request(model, *names, **changes), steps=("decode",))
        return {r.key for r in measure(asked, tmp_path)}

    first, loaded = keys(), engines.Fake.calls
    assert keys() == first and engines.Fake.calls == loaded
    assert not (keys(names=("fake",)) | keys(threads=2)) & first
    for what in ("fingerprint", "digest_source"):  # another machine, another code
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(time_models, what, lambda *of: "another")
            assert not keys() & first
    assert not keys(write(build("llama"), tmp_path / "m")) & first
    monkeypatch.setattr(engines.Fake, "version", "2")
    assert not keys() & first


def test_a_record_has_both_sides_of_its_blocks(engines, tmp_path, monkeypatch):
    """Seconds of a step go in, tokens per second come out; a prompt of 8 tokens has 8 in each."""

    def interleave(works, clock, **options):
        seconds = {}
        for name in works:
            of_block = 0.25 if name.endswith("2:4") else 1.0
            seconds |= {name: (of_block,) * 12, f"{name} again": (of_block * 1.01,) * 12}
        return Timings(seconds, seconds)

    monkeypatch.setattr(time_models, "interleave", interleave)
    made = measure(request("tiny", "fake", "other"), tmp_path)
    records = {(r.identity.protocol.name, r.identity.dtype): r for r in made}
    items = ReadOnlyStore(tmp_path).items
    for step, tokens in (("decode", 1), ("prefill", 8)):
        both, dense = records[step, "bf16"], records[step, "fp16"]
        beside = {"tokens_per_s_dense": tokens, "speedup": 4}
        found = {r.metric: r.value for r in both.readings}
        assert found == {"tokens_per_s": 4 * tokens} | beside
        assert {r.metric: r.value for r in dense.readings} == {"tokens_per_s": tokens}
        assert both.notes["interval"] == pytest.approx([4, 4])
        assert both.notes["noise"] == pytest.approx({"2:4": 0.01, "dense": 0.01})
        assert both.notes["again"]["2:4"] == pytest.approx([4 * tokens / 1.01] * 12)
        columns = {name: set(values) for name, values in items(both).columns.items()}
        assert columns["value"] == {4 * tokens}
        assert {name: columns[name] for name in beside} == {k: {v} for k, v in beside.items()}
        assert set(items(dense).columns["value"]) == {tokens}


@pytest.mark.parametrize("full_in", ["loading", "a step", "timing"])
def test_what_does_not_fit_in_a_card_is_skipped_with_its_sizes(
    engines, tmp_path, monkeypatch, full_in, cli
):
    """A kind with one of its sides is skipped, too. What fails in turn ends the step for all."""
    monkeypatch.setattr(time_models, "_card_memory", lambda device: "1 of 2 GB of a card were free")
    monkeypatch.setattr(engines.Full, "full_in", full_in)
    monkeypatch.setattr(engines.Full, "steps", 0, raising=False)
    asked = replace(request("tiny", "full", "other"), steps=("decode",))
    made = {(r.identity.protocol.engine, r.identity.dtype): r for r in measure(asked, tmp_path)}

    skipped = {("full", "int8")} if full_in != "timing" else set(made)
    assert {key for key, record in made.items() if record.status == "skipped"} == skipped
    assert len(made) == 3 and all(r.readings or r.status == "skipped" for r in made.values())
    reason = made["full", "int8"].reason
    assert reason == (
        "0.0 GB of int8 weights and 0.0 GB of keys and values do not fit: 1 of 2 GB of a card were "
        "free"
    )
    code, _, err = cli(
        "speed --engine full,other --model tiny --device cpu --tokens 8 --threads 1 --results",
        tmp_path / "again",
    )
    assert code == 0 and f"full int8: skipped: {reason}" in err


def test_an_engine_of_another_package_is_in_the_help_and_its_faults_are_sentences(
    engines, output, refused
):
    assert "fake: Steps that take no time." in " ".join(output("speed", "--help").split())
    asked = ("speed", "--model", "tiny", "--device", "cpu", "--engine")
    assert "unknown engine 'fakes': did you mean fake?" in refused(*asked, "fakes")
    assert "plug-in 'fakes:Faulty' cannot be used (ZeroDivisionError" in refused(*asked, "faulty")


def test_versions_are_the_model_and_what_magnitude_leaves(tmp_path):
    made = versions.ModelVersions(models.resolve("tiny"), tmp_path)
    pattern = Pattern.parse("2:4")
    assert made.method == "magnitude" and made.folder(DENSE) == models.resolve("tiny").folder

    sparse = Folder(made.folder(SPARSE))
    for target in made.targets:
        weight = made.source.weight(target)
        assert sparse.weight(target).equal(weight * pattern.keep(weight.abs()))
    assert sparse.tensor("model.norm.weight").equal(made.source.tensor("model.norm.weight"))


def test_a_model_that_is_sparse_gets_a_dense_version(tmp_path):
    folder = write(build("gpt2"), tmp_path / "m")
    once = versions.ModelVersions(models.resolve(str(folder)), tmp_path / "a")
    pruned = once.folder(SPARSE).rename(once.folder(SPARSE).with_name("pruned"))
    made = versions.ModelVersions(models.resolve(str(pruned)), tmp_path / "b")

    assert made.method == "unchanged" and made.folder(SPARSE) == made.model.folder
    dense = Folder(made.folder(DENSE))
    for target in made.targets:
        assert (dense.weight(target) != 0).all()


def test_a_zero_below_zero_is_no_weight_of_the_sparse_version(tmp_path):
    model = build("llama")
    with torch.no_grad():
        for weight in (p for p in model.parameters() if p.ndim == 2):
            weight[0] = -0.0
    folder = write(model, tmp_path / "m")
    made = versions.ModelVersions(models.resolve(str(folder)), tmp_path / "v")
    weight = Folder(made.folder(SPARSE)).weight(made.targets[0])
    assert not weight[weight == 0].signbit().any()


def test_a_sparse_version_made_elsewhere_is_one_side(engines, tmp_path):
    pruned = versions.ModelVersions(models.resolve("tiny"), tmp_path / "v").folder(SPARSE)
    plain = replace(request("tiny", "fake"), steps=("decode",))
    asked = replace(plain, sparse=str(pruned))
    made = measure(asked, tmp_path / "r")
    assert {r.identity.protocol.name for r in made} == {"decode"}
    assert all(r.identity.stages == ("folder",) and r.notes["sparse"] == pruned.name for r in made)
    assert {r.key for r in made}.isdisjoint(r.key for r in measure(plain, tmp_path / "r"))
    with pytest.raises(UserError, match=r"is not 2:4: \d+ groups of model\.layers\.0"):
        measure(replace(asked, sparse="tiny"), tmp_path / "r")
    with pytest.raises(UserError, match="is no 2:4 version of"):
        measure(replace(asked, model=str(pruned)), tmp_path / "r")


def test_other_models_are_timed_dense_in_the_same_turn(engines, tmp_path, cli):
    smaller = str(write(build("llama"), tmp_path / "m"))
    plain = replace(request("tiny", "fake", "other"), steps=("decode",))
    made = measure(replace(plain, others={"depth 50%": smaller}), tmp_path / "r")
    kinds = (("fake", "bf16"), ("fake", "int8"), ("other", "fp16"))
    identities = [r.identity for r in made]
    about = [(i.model, i.protocol.engine, i.dtype) for i in identities]
    assert about == [(model, *kind) for model in ("tiny", "depth 50%") for kind in kinds]
    assert [i.pattern for i in identities] == ["2:4", "2:4", *["dense"] * 4]
    smaller_turn = ["fake bf16 depth 50%", "fake int8 depth 50%", "other fp16 depth 50%"]
    turn = {f"fake {kind} {side}" for kind in ("bf16", "int8") for side in ("2:4", "dense")}
    turn |= {"other fp16 dense", *smaller_turn}
    assert all(set(r.notes["in_turn"]) == turn and r.notes["beside"] == "tiny" for r in made)
    assert made[3].identity.stages == ("dense",) and set(made[3].notes["noise"]) == {"dense"}

    found = engine_report.entries(made, ReadOnlyStore(tmp_path / "r").items)
    assert len(found) == 8 and {entry.name for entry in found} >= {*smaller_turn, "fake bf16"}
    ratios = [row["ratio_of"] for row in engine_report.rows(found)][-3:]
    assert ratios == [f"fake bf16 2:4 / {name}" for name in smaller_turn]
    twice = measure(replace(plain, others={"a": smaller, "b": smaller}), tmp_path / "twice")
    assert len({r.key for r in twice}) == len(twice) == 9
    # A model that is timed beside others is not taken for one that was timed alone.
    assert {r.key for r in made}.isdisjoint(r.key for r in measure(plain, tmp_path / "r"))


@pytest.mark.slow
def test_real_engines_on_a_small_model(tmp_path, monkeypatch, output, cache):
    """The same exported graph twice, and torch; llama.cpp where it is installed."""
    monkeypatch.setattr(time_models, "BLOCK_S", 1e-4)
    llamacpp = ",llamacpp" if importlib.util.find_spec("llama_cpp") else ""
    places = ("--model", runs.tiny(tmp_path / "m"), "--results", tmp_path / "r")
    line = f"speed --engine torch,onnxruntime{llamacpp} --tokens 8 --threads 1 --json"
    rows = json.loads(output(line, *places, "--figure", tmp_path / "f.svg"))
    engines = {row["engine"] for row in rows}
    assert engines >= {"torch bf16", "torch fp32", "onnxruntime fp32", "onnxruntime fp32 2:4"}
    assert all(row["tokens_per_s"] > 0 for row in rows)
    assert "onnxruntime fp32 2:4" in (tmp_path / "f.svg").read_text()
    # Exported once for both sides and both steps.
    assert len(list((tmp_path / "cache/exports").iterdir())) == 1


@pytest.mark.parametrize("is_here", [True, False])
def test_an_engine_on_a_cpu_names_the_command_that_puts_llama_cpp_beside_it(
    engines, tmp_path, monkeypatch, cli, is_here
):
    package_is_here(monkeypatch, ("llama_cpp",), is_here)
    places = ("--model", runs.tiny(tmp_path / "a b"), "--results", tmp_path / "r")
    code, _, err = cli("speed --device cpu --tokens 8 --threads 1 --engine fake", *places)

    command = f"bench speed --model '{tmp_path / 'a b'}' --device cpu --engine fake,llamacpp"
    before = "" if is_here else "pip install 'cast-bench[llamacpp]', then "
    said = f"bench: to compare it with llama.cpp: {before}{command}"
    assert code == 0 and err.splitlines()[-1] == said


@pytest.mark.parts("onnx")
def test_an_export_is_made_once_for_a_dtype_a_torch_and_a_code(tmp_path, monkeypatch, cache):
    from bench.parts.onnx import onnx_model

    exported = []

    def export(folder, room, dtype, *others):
        exported.append(dtype)
        (room / onnx_model.FILE).write_text(dtype)

    monkeypatch.setattr(onnx_model, "write", export)
    made = versions.ModelVersions(models.resolve("tiny"), tmp_path)
    for dtype in ("float32", "float16", "float32"):
        assert made.onnx(DENSE, dtype).read_text() == dtype
    assert exported == ["float32", "float16"]
    monkeypatch.setattr("torch.__version__", "another")
    made.onnx(DENSE, "float32")
    monkeypatch.setattr(versions, "digest_source", lambda *modules: "another")
    made.onnx(DENSE, "float32")
    assert len(exported) == 4


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (("--engine", "onnx"), "unknown engine 'onnx': did you mean onnxruntime?"),
        (
            ("--engine", "torch", "--kinds", "bf16"),
            "--kinds is for linears, and --engine times whole models: leave one out",
        ),
        (
            ("--others", "a=b"),
            "--others is for whole models: give --engine too, for example --engine native,llamacpp",
        ),
        (
            ("--engine", "torch", "--others", "a"),
            "--others 'a' is not NAME=FOLDER: for example 'depth 25%=pruned/'",
        ),
        (
            ("--engine", "torch", "--others", "a=b,a=c"),
            "--others has two models with the name 'a': give each its own",
        ),
        (
            ("--engine", "torch", "--others", "2:4=b"),
            "--others '2:4' names timings of the model itself: choose another",
        ),
        (
            ("--engine", "tensorrt"),
            "--engine tensorrt needs the package tensorrt: pip install tensorrt",
        ),
        (
            ("--engine", "llamacpp"),
            "--engine llamacpp needs the package llama_cpp: pip install 'cast-bench[llamacpp]'",
        ),
        (
            ("--engine", "onnxruntime"),
            "ONNX needs the package onnx: pip install 'cast-bench[onnx]'",
        ),
        (
            ("--engine", "torch", "--model", "opt-125m"),
            "model 'opt-125m' is not downloaded yet: run bench pull opt-125m",
        ),
    ],
)
def test_what_cannot_be_is_one_sentence(refused, monkeypatch, tmp_path, cache, args, sentence):
    package_is_here(monkeypatch, ("onnx", "onnxruntime", "llama_cpp"), False)
    assert sentence in refused("speed --device cpu --model tiny --results", tmp_path, *args)


@pytest.mark.parametrize("name", ["native", "onnxruntime", "llamacpp"])
def test_what_measures_on_a_cpu_says_so(monkeypatch, name):
    package_is_here(monkeypatch, ("onnx", "onnxruntime", "llama_cpp"), True)
    with pytest.raises(UserError, match=f"^--engine {name} measures on a CPU: use --device cpu$"):
        registry.build("engines", name, Engine).require("cuda")


def test_the_native_engine_without_its_kernel_is_a_sentence(monkeypatch):
    def load():
        raise native.NoKernel("no compiler")

    monkeypatch.setattr(native, "load", load)
    with pytest.raises(UserError, match=r"^--engine native has no kernel here: no compiler$"):
        registry.build("engines", "native", Engine).require("cpu")
