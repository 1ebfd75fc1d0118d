"""Files that go to another library's environment and come back. A script replaces the library."""

import json
import os
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from bench.system import environments
from helpers import runs
from methods.contract.errors import Skipped
from methods.contract.method import Environment
from methods.workshop import isolated
from methods.workshop.isolated import Script, ScriptFailed

SCRIPT = """
import json, os, signal, sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

job = json.loads(Path(sys.argv[1]).read_text())
mode = job["settings"]["mode"]
print("WARNING: this library is old", file=sys.stderr)
probe = load_file(job["probe"])
logits = probe["logits"]
if mode == "misreads":
    logits = logits + np.float32(0.01) * logits.std(ddof=1)
save_file({"logits": np.ascontiguousarray(logits)}, job["logits"])
if mode == "crashes":
    raise ArithmeticError("the library fell over")
if mode == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
tensors = load_file(Path(job["model"]) / "model.safetensors")
for i, target in enumerate(job["targets"]):
    weight = tensors[target + ".weight"]
    weight[:, 1::2] = 0
    print(json.dumps({"done": i + 1, "total": len(job["targets"])}), flush=True)
if mode == "touches":
    tensors["model.embed_tokens.weight"][0, 0] += 1
if mode == "leaves":
    import subprocess
    Path("left").write_text(str(subprocess.Popen(["sleep", "600"]).pid))
Path(job["pruned"]).mkdir()
save_file(tensors, Path(job["pruned"]) / "model.safetensors")
report = {"versions": {"torch": version("torch")}, "recipe": "every other weight"}
if mode != "silent":
    Path(job["report"]).write_text(json.dumps(report))
"""


class Steps:
    def __init__(self):
        self.seen = []

    def advance(self, done, total, **figures):
        self.seen.append((done, total))


@pytest.fixture
def script(tmp_path):
    file = tmp_path / "library.py"
    file.write_text(SCRIPT)
    return file


@pytest.fixture
def ready(job, tmp_path):
    """Return a job whose environment is this interpreter."""
    log = tmp_path / "artifacts/a.log"
    here = Environment(name="old", python=Path(sys.executable), log=log)
    return replace(job, environment=here, workdir=tmp_path / "workdir", progress=Steps())


def prune(model, job, script, mode="prunes"):
    config, settings = model.config.to_dict(), {"mode": mode}
    return isolated.prune(model, job, Script(path=script, config=config, settings=settings))


def test_what_is_handed_over_and_what_comes_back(llama, ready, script):
    outcome = prune(llama, ready, script)

    after = load_file(outcome.model / "model.safetensors")
    for name, before in llama.state_dict().items():
        if name.removesuffix(".weight") in ready.targets:
            before = before.clone()
            before[:, 1::2] = 0
        assert torch.equal(after[name], before), name
    assert outcome.notes["recipe"] == "every other weight"
    # Without the build, as in "+cu132".
    assert outcome.notes["versions"]["torch"] == metadata.version("torch")
    assert outcome.notes["dense_logits"]["difference"] == 0
    warnings = ["WARNING: this library is old"]
    assert outcome.notes["log"] == {"file": "artifacts/a.log", "warnings": warnings}
    assert ready.environment.log.read_text() == "WARNING: this library is old\n"
    assert ready.progress.seen[-1] == (len(ready.targets), len(ready.targets))
    exchange = ready.workdir / "exchange"
    request = json.loads((exchange / "job.json").read_text())
    probe = load_file(exchange / "probe.safetensors")
    assert request["targets"] == list(ready.targets)
    assert request["pattern"] == {"n": 2, "m": 4, "sparsity": 0.5}
    assert torch.equal(load_file(exchange / "calibration.safetensors")["tokens"], ready.calibration)
    torch.testing.assert_close(probe["logits"], llama(probe["tokens"]).logits[0])
    # Nothing that runs code.
    assert {p.suffix for p in exchange.rglob("*") if p.is_file()} == {".json", ".safetensors"}


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("crashes", "^old: ArithmeticError: the library fell over; see its log {log}$"),
        ("killed", "^old: signal 9 after WARNING: this library is old; see its log {log}$"),
        ("misreads", r"old reads the dense model differently: its logits differ by 0\.01"),
        ("silent", "old wrote no report"),
    ],
)
def test_a_failure_is_a_sentence_and_the_log_is_kept(llama, ready, script, mode, words):
    log = ready.environment.log
    with pytest.raises(ScriptFailed, match=words.format(log=log)):
        prune(llama, ready, script, mode)
    assert ("Traceback" in log.read_text()) == (mode == "crashes")


def test_a_process_that_the_script_leaves_behind_holds_nobody(llama, ready, script):
    prune(llama, ready, script, "leaves")
    left = psutil.Process(int((ready.workdir / "exchange/left").read_text()))
    assert left.is_running()
    left.kill()


@pytest.mark.numeric
def test_logits_difference():
    reference = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    spread = (reference - 2.5).square().mean().sqrt()
    off = 4 * torch.finfo(torch.float32).eps / 0.1  # of the 0.1, what rounding 4.1 takes
    found = isolated.logits_difference(reference + 0.1, reference)
    assert found == pytest.approx(0.1 / float(spread), rel=off)
    assert not isolated.logits_difference(reference[:1], reference) <= 1
    assert not isolated.logits_difference(reference * torch.nan, reference) <= 1


def test_a_streamed_model_is_skipped(llama, ready, script):
    with pytest.raises(Skipped, match="needs the whole model in memory"):
        prune(llama, replace(ready, compute=replace(ready.compute, stream=True)), script)


@pytest.fixture
def built(tmp_path, monkeypatch, script):
    """Return the environment `sparseml`, built from this interpreter, in which the script runs."""
    runs.own_cache(tmp_path, monkeypatch)
    monkeypatch.setattr("baselines.sparseml.sparseml_prune.__file__", str(script))
    home = environments.folder("sparseml")
    (home / "bin").mkdir(parents=True)
    (home / "bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (home / "bin/python").chmod(0o755)
    manifest = {"pins": environments.pins("sparseml"), "versions": {"sparseml": "1.8.0"}}
    (home / environments.MANIFEST).write_text(json.dumps(manifest))
    return home


def row(tmp_path, mode, monkeypatch):
    monkeypatch.setattr("baselines.sparseml.as_regexes", lambda *_: [])
    real, settings = isolated.prune, {"mode": mode}
    run = lambda model, job, script: real(model, job, replace(script, settings=settings))  # noqa: E731
    monkeypatch.setattr("baselines.sparseml.prune", run)
    name = "sparseml-magnitude"
    found = runs.measured(tmp_path / "r", only={name}, methods=(name,), measures=("size",))
    return found[name, None, "pattern"]


def test_a_row_holds_versions_recipe_log_and_the_check(built, tmp_path, monkeypatch):
    record = row(tmp_path, "prunes", monkeypatch)
    assert record.status == "ok"
    assert {"versions", "recipe", "log", "dense_logits"} <= record.notes.keys()
    log = built.parent.parent / record.notes["log"]["file"]
    assert log.read_text() == "WARNING: this library is old\n"
    assert [log.stem] == [p.name for p in log.parent.iterdir() if p.is_dir()]


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("crashes", "ScriptFailed: sparseml: ArithmeticError: the library fell over"),
        ("touches", "CheckFailed: model.embed_tokens.weight changed"),
    ],
)
def test_what_goes_wrong_is_one_failed_row(built, tmp_path, monkeypatch, mode, reason):
    record = row(tmp_path, mode, monkeypatch)
    assert (record.status, record.reason[: len(reason)]) == ("failed", reason)
    logs = [p for p in (built.parent.parent / "artifacts").iterdir() if p.suffix == ".log"]
    assert len(logs) == 1 and os.path.getsize(logs[0])


def test_without_its_environment_a_row_is_skipped(built, tmp_path, monkeypatch):
    (built / environments.MANIFEST).write_text(json.dumps({"pins": "others", "versions": {}}))
    assert environments.state("sparseml") == "outdated"
    record = row(tmp_path, "prunes", monkeypatch)
    assert (record.status, record.reason) == ("skipped", "run `bench env create sparseml`")
