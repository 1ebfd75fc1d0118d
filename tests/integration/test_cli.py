"""The command line: good input in the promised shape."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest

from bench.cli import run
from bench.execution import prune
from bench.results.store import Store
from helpers import runs
from methods.contract.errors import UserError
from methods.contract.pattern import Pattern
from methods.model.folder import Folder
from methods.model.targets import find_targets

COLUMNS = (
    "model method pattern quantizer seed measure protocol metric value stderr n unit better "
    "status reason record calibration targets dtype device training"
)


pytestmark = pytest.mark.usefixtures("cache", "in_tmp_path")


@pytest.mark.parametrize(
    ("args", "quantizers"),
    [([], ("none",)), (["--quant", "int8"], ("int8",)), (["--config", "c.toml"], ("int4-gptq",))],
)
def test_prune_quantizes_only_on_request(cli, tmp_path, monkeypatch, args, quantizers):
    specs = []
    monkeypatch.setattr("bench.execution.prune.write_pruned", lambda spec, out: specs.append(spec))
    (tmp_path / "c.toml").write_text('quantizers = "int4-gptq"')
    assert cli("prune", "--method", "magnitude", "--out", "o", *args)[0] == 0
    assert specs[0].quantizers == quantizers
    assert "[default: none]" in " ".join(cli("prune", "--help")[1].split())


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A small run's results folder."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("done")
        runs.own_cache(root, patch)
        runs.run_here(runs.small(root / "r", methods=("wanda",), seeds=(0, 1)))
    return root / "r"


def test_a_run_says_once_what_to_choose_in_place_of_prose(cli, done, tmp_path, monkeypatch):
    shutil.copytree(done, tmp_path / "r")
    monkeypatch.setattr(run, "_advise", lambda model, data: f"{model}: {data} is prose")
    flags = ("--methods", "wanda", "--seeds", "0,1", "--measures", "perplexity,size")
    _, _, said = cli("run", *flags, *runs.flags("r"))
    assert said.count("tiny: wiki-mini is prose") == 1


def test_rows_in_json_and_csv_have_the_stable_columns(cli, output, done, tmp_path):
    shutil.copytree(done, tmp_path / "r")
    flags = ("--methods", "wanda", "--seeds", "0,1", "--measures", "perplexity,size", "--json")
    code, out, _ = cli("run", *flags, *runs.flags("r"))
    rows = json.loads(out)

    assert code == 0
    assert all(list(r) == COLUMNS.split() for r in rows)
    assert {(r["method"], r["seed"]) for r in rows} == {("dense", None), ("wanda", 0), ("wanda", 1)}
    assert all(r["status"] == "ok" and r["value"] is not None for r in rows)
    read = pd.read_csv(io.StringIO(output("report", "--results", done, "--format", "csv")))
    assert list(read.columns) == COLUMNS.split()


AWQ = ("awq", "int4-awq:group=32", "awq:group=32 + int4-awq:group=32:embed=int8")


@pytest.mark.parametrize(
    ("method", "quantizer", "stages"),
    [
        ("dense", "int4-awq", "awq + int4-awq:embed=int8"),
        AWQ,
        ("wanda", "int8", "wanda + int8:embed=int8"),
    ],
)
def test_prune_takes_the_typed_method_and_quantizer(
    method, quantizer, stages, monkeypatch, tmp_path
):
    def take(plan, *_):
        raise UserError(plan.measurements[0].artifact.stage_labels)

    monkeypatch.setattr(prune, "execute", take)
    spec = runs.small(tmp_path / "r", methods=(method,), quantizers=(quantizer,), patterns=("2:4",))
    with pytest.raises(UserError, match=f"^{re.escape(stages)}$"):
        prune.write_pruned(spec, tmp_path / "o")


def test_prune_writes_a_folder_that_transformers_loads(output, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    runs.workers_here(monkeypatch)
    said = output("prune", "--method", "magnitude", "--out", "o", "--device", "cpu")
    assert "50.0% of the weights of 28 linears are zero" in said
    out = tmp_path / "o"

    model, loading = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(loading.values())
    assert AutoTokenizer.from_pretrained(out)("Two words.")["input_ids"]
    assert "magnitude" in (out / "README.md").read_text()
    folder = Folder(out)
    targets = find_targets(folder.config, folder.shapes())
    assert all(Pattern(2, 4).violations(model.get_submodule(t).weight) == 0 for t in targets)
    names = {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
    assert {p.name for p in out.iterdir()} == names | {"tokenizer_config.json"}


def test_cache_is_shown_collected_and_made_again(cli, output, cache, tmp_path):
    spec = runs.small(tmp_path / "r", measures=("size",))
    runs.run_here(spec)
    before = {k: runs.same(r) for k, r in runs.records(spec.results).items()}
    fetched = cache / "data/owner/text/test.txt"
    fetched.parent.mkdir(parents=True)
    fetched.touch()
    _, out, _ = cli("cache", "info", "--json")
    assert {r["part"]: r["entries"] for r in json.loads(out)}["artifacts"] == 2

    assert "MB freed" in output("cache", "gc")
    assert not list((cache / "artifacts").iterdir())
    assert fetched.exists(), "what was fetched stays"
    command = ["run", "--methods", "magnitude", "--measures", "size"]
    command += runs.flags("r", windows=None)
    assert "0 measurements run, 4 read" in cli(*command)[1]

    for record in runs.records(spec.results).values():
        if record.identity.measure == "size":
            Store(spec.results).path(record.key).unlink()
    runs.run_here(spec)
    assert {k: runs.same(r) for k, r in runs.records(spec.results).items()} == before


def test_doctor_fails_where_a_folder_that_was_named_is_not_there(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path / "nowhere"))
    code, out, err = cli("doctor", "--json")
    assert code == 1
    assert {r["thing"]: r["state"] for r in json.loads(out)}["mirror"] == "missing"
    assert err == f"bench: mirror missing: {tmp_path / 'nowhere'}\n"


def test_set_wins_over_flags_and_flags_over_toml(cli, tmp_path):
    text = 'methods = "wanda"\npatterns = "1:4"\nmeasures = ["size"]\nseeds = [5]\n'
    (tmp_path / "c.toml").write_text(f"{text}[calibration]\nsequences = 7\n")
    flags = ("--config", "c.toml", "--methods", "wanda,magnitude", "--pattern", "2:8")
    _, out, said = cli("plan", *flags, "--set", "patterns=4:8", "--json")
    assert "bench: calibrated on wiki-mini\n" in said
    hub = SimpleNamespace(model="a/b", calibration=SimpleNamespace(data="wiki-mini"))
    assert "--set calibration.data=wiki:0.5,code:0.5" in run._describe_text(hub)
    rows = {r["method"]: r for r in json.loads(out)}
    assert set(rows) == {"dense", "wanda", "magnitude"}
    wanda = rows["wanda"]
    assert (wanda["pattern"], wanda["seed"], wanda["tokens"]) == ("4:8", "5", 7 * 128)


@pytest.mark.parametrize("name", ["bench", "cast-bench"])
def test_every_name_of_the_command(name):
    command = Path(sys.executable).parent / name
    if not os.access(command, os.X_OK):
        pytest.skip("the scripts of this environment are elsewhere")
    done = subprocess.run([command, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "prune" in done.stdout
