"""The command line: bad input in one sentence, good input in the promised shape."""

import inspect
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from bench.cli import run as commands
from bench.cli.flags import FLAGS
from bench.inputs import windows
from bench.report import table
from bench.results.record import ReadingRow, Record
from bench.results.store import Store
from bench.system import digests
from helpers import fake_records, runs
from methods.folder import Folder
from methods.pattern import Pattern
from methods.targets import find_targets

COLUMNS = "model method pattern quantizer seed measure protocol metric value stderr n unit better status reason record calibration targets dtype device training"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return runs.own_cache(tmp_path, monkeypatch)


@pytest.fixture
def refused(cli):
    """The one sentence a command is refused with."""

    def run(*args, code=2):
        got, _, err = cli(*args)
        lines = [x for x in err.splitlines() if not x.startswith("fetching ")]
        assert got == code, err
        assert len(lines) == 1 and lines[0].startswith("bench: "), err
        return lines[0]

    return run


# Bad input: (arguments, what the sentence says of the thing, its value and the way out)
BAD = {
    "method": ("run --methods wandaa", ["unknown method 'wandaa'", "wanda"]),
    "method, far off": ("run --methods zzz", ["'zzz'", "magnitude"]),
    "model": ("run --model tinny", ["unknown model 'tinny': did you mean tiny, or a hub id (owner/name) or a folder?"]),
    "model, far off": ("run --model zzz", ["unknown model 'zzz': known: ", ", or a hub id (owner/name) or a folder"]),
    "model, extra comma": ("run --model tiny,", ["invalid models=tiny,: leave the extra comma out"]),
    "targets, extra comma": (
        "run --set targets.include=*q,",
        ["invalid targets.include=*q,: leave the extra comma out"],
    ),
    "model that is not here": (
        "plan --model opt-125m",
        ["the plan of opt-125m needs its files", "bench pull opt-125m"],
    ),
    "measure": ("run --measures perplexitty", ["'perplexitty'", "perplexity"]),
    "field": ("run --methods wanda:foo=1", ["wanda", "'foo'"]),
    "field, misspelt": ("run --methods sparsegpt:blok=1", ["sparsegpt", "'blok'", "block"]),
    "field's value": ("run --methods sparsegpt:block=abc", ["invalid sparsegpt:block=abc", "must be a whole number"]),
    "preset": ("run --methods wanda:fast", ["wanda", "'fast'"]),
    "prior": ("run --methods wanda:from=magnitud", ["'magnitud'", "magnitude"]),
    "nothing to refine": ("run --methods dsnot", ["dsnot refines a pruned model", "dsnot:from=wanda"]),
    "field's choice": (
        "run --methods dsnot:part=mlp:from=wanda",
        ["invalid dsnot:part=mlp", "must be one of attention, all"],
    ),
    "pattern": ("run --pattern 5:4", ["'5:4'", "2:4"]),
    "pattern, no pattern": ("run --pattern half", ["'half'", "50%"]),
    "pattern that does not fit": ("run --pattern 2:3", ["2:3", "128", "use another pattern"]),
    "folder": ("run --model ./nowhere", ["'./nowhere'", "bench ls models"]),
    "toml, missing": ("run --config nowhere.toml", ["'nowhere.toml'", "No such file", "check the path"]),
    "set of tasks, to pull": ("pull wikitext2 wanda8", ["unknown model, corpus or task 'wanda8'", "wanda7"]),
    "set, no value": ("run --set perplexity.windows", ["'perplexity.windows'", "key=value"]),
    "set, unknown": ("run --set perplexity.windws=4", ["perplexity.windws", "perplexity.windows"]),
    "set, unknown at the top": ("run --set thread=4", ["'thread'", "threads"]),
    "set, bad value": (
        "run --set perplexity.windows=many",
        ["perplexity.windows", "invalid perplexity.windows=many: must be a whole number"],
    ),
    "no such split": (
        "run --set perplexity.data=c4 --set perplexity.split=validation",
        ["c4 has no validation split", "wiki-mini", "wikitext2"],
    ),
    "not for evaluation": ("run --set perplexity.data=fineweb-edu", ["fineweb-edu has no evaluation split", "c4"]),
    "set, too small": ("run --set perplexity.windows=0", ["invalid perplexity.windows=0: must be at least 1"]),
    "set, too large": ("run --set threads=4097", ["invalid threads=4097: must be at most 4096"]),
    "set, not above": ("run --max-memory 0", ["invalid max_memory=0.0: must be above 0"]),
    "set, no path": ("run --set results=3", ["invalid results=3: must be a path"]),
    "set, no list": ("run --set targets.include=3", ["invalid targets.include=3: must be a list"]),
    "set, no text": ("run --set device=3", ["invalid device=3: must be text"]),
    "set, a long number": (f"run --set threads={'9' * 5000}", ["invalid threads=99", "must be a whole number"]),
    "flag, no number": ("run --max-memory 4GB", ["invalid --max-memory=4GB: must be a number"]),
    "flag, no whole number": ("plan --shards x", ["invalid --shards=x: must be a whole number"]),
    "flag, out of range": ("plan --shards 0", ["invalid --shards=0: must be at least 1"]),
    "flag, too small": ("finetune --artifact a --data d --out o --rank -1", ["invalid --rank=-1: must be at least 0"]),
    "ray, without it": ("run --ray-address h:1", ["invalid ray_address=h:1", "add --executor ray, or leave it out"]),
    "nothing to pull": ("pull ''", ["unknown model ''"]),
    "command": ("rnu", ["no such command 'rnu'. Did you mean 'run'? bench --help"]),
    "baselines": ("baseline ls --dir nowhere", ["--dir 'nowhere' is not a folder: name a folder of baselines"]),
    "merge, missing": ("merge nowhere --results m", ["'nowhere' is not there", "as in bench merge DIR"]),
    "merge, no results": ("merge . --results m", ["'.' is no results folder: it has no records/ in it"]),
    "seeds": ("run --seeds a", ["seeds", "invalid seeds=a"]),
    "dtype": (
        "run --dtype float8",
        ["dtype", "invalid dtype=float8: must be auto, float32, bfloat16 or float16", "bfloat16"],
    ),
    "device": ("run --device tpu", ["'tpu'", "cpu"]),
    "corpus": ("run --set perplexity.data=wikitext3", ["'wikitext3'", "wikitext2"]),
    "calibration too long": (
        "run --methods wanda --set calibration.seqlen=1000000",
        ["wiki-mini", "calibration.seqlen=1000000", "use a smaller one"],
    ),
    "more windows than there are": (
        "run --methods magnitude --set perplexity.windows=100000",
        ["wiki-mini has ", " windows of 128 tokens", "perplexity.windows=100000", "leave it out"],
    ),
    "window longer than the corpus": (
        "plan --set perplexity.seqlen=10000000",
        ["wiki-mini has ", " tokens", "perplexity.seqlen=10000000", "use a smaller one"],
    ),
    "mirror": ("run --data-dir nowhere", ["'nowhere'", "make it"]),
    "zero-shot limit": ("run --set zeroshot.limit=0", ["invalid zeroshot.limit=0: must be at least 1"]),
    "list": ("ls method", ["'method'", "methods"]),
    "results to read": ("report --results nowhere", ["'nowhere'", "--results"]),
    "tracker": ("run --log-to tensorboard", ["log_to", "mlflow", "wandb"]),
    "a setting of runs": ("prune --method wanda --out o --set jobs=2", ["--set jobs=2 has no effect", "leave it out"]),
    "prune takes one": ("prune --method wanda,magnitude --out o", ["one method"]),
}


@pytest.mark.parametrize(("args", "said"), BAD.values(), ids=BAD)
def test_bad_input_is_one_sentence(refused, args, said):
    sentence = refused(*shlex.split(args))

    assert [s for s in said if s not in sentence] == [], sentence


def test_every_flag_of_a_spec_is_a_flag_of_each_command_that_makes_one():
    offered = {c: set(inspect.signature(getattr(commands, c)).parameters) for c in ("run", "plan", "prune")}

    assert offered["run"] == offered["plan"] - {"slurm", "shards"} == {*FLAGS, "json"}
    assert offered["prune"] == {*FLAGS, "out"} - {
        "measures",
        "tasks",
        "results",
        "jobs",
        "executor",
        "ray_address",
        "shard",
        "log_to",
    }


@pytest.mark.parametrize(
    ("args", "quantizers"),
    [([], ("none",)), (["--quant", "int8"], ("int8",)), (["--config", "c.toml"], ("int4-gptq",))],
)
def test_prune_quantizes_only_on_request(cli, tmp_path, monkeypatch, args, quantizers):
    specs = []
    monkeypatch.setattr("bench.run.prune.write_pruned", lambda spec, out: specs.append(spec))
    (tmp_path / "c.toml").write_text('quantizers = "int4-gptq"')

    assert cli("prune", "--method", "magnitude", "--out", "o", *args)[0] == 0
    assert specs[0].quantizers == quantizers
    assert "[default: none]" in " ".join(cli("prune", "--help")[1].split())


def test_no_cuda(refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "'cuda'" in (sentence := refused("run", "--device", "cuda")) and "--device cpu" in sentence


def test_pickle_is_refused(refused, tmp_path):
    folder = runs.tiny(tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    sentence = refused("run", "--model", folder)

    assert str(folder) in sentence and "pytorch_model.bin" in sentence and "convert them to safetensors" in sentence


def test_remote_code_is_refused(refused, tmp_path):
    sentence = refused("run", "--model", runs.tiny(tmp_path / "m", auto_map={"AutoModel": "evil.Model"}))

    assert "auto_map" in sentence and str(tmp_path / "m") in sentence


def test_unknown_architecture(refused, tmp_path):
    sentence = refused("run", "--model", runs.tiny(tmp_path / "m", model_type="bloom"))

    assert "'bloom'" in sentence and "bench families teach" in sentence
    assert "model.layers (4 with " in sentence and "self_attn.q_proj" in sentence


def test_unreadable_toml(refused, tmp_path):
    (tmp_path / "c.toml").write_text("methods = [")
    assert "c.toml" in (sentence := refused("run", "--config", "c.toml")) and "is not TOML" in sentence


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_search_is_not_run(refused, tmp_path, command):
    (tmp_path / "c.toml").write_text("[search]\ntrials = 4\n")

    assert "[search] is for bench search FILE" in refused(command, "--config", "c.toml")


def test_unknown_key_in_toml(refused, tmp_path):
    (tmp_path / "c.toml").write_text("[calibration]\nsequence = 4\n")
    assert (
        "'calibration.sequence'" in (sentence := refused("run", "--config", "c.toml"))
        and "calibration.sequences" in sentence
    )


@pytest.mark.parametrize("command", ["run", "plan", "report"])
def test_results_that_are_a_file(refused, tmp_path, command):
    (tmp_path / "taken").write_text("")
    sentence = refused(command, "--results", "taken")

    assert "'taken' is a file, not a folder: name another" in sentence and "--results" in sentence


@pytest.mark.parametrize(
    "command", ["run --model x", "verify x", "pull x", "export x --out o", "finetune --artifact x"]
)
def test_a_model_that_is_a_file(refused, tmp_path, command):
    (tmp_path / "x").write_text("")
    more = ("--data", "wiki-mini", "--out", "o") if command.startswith("finetune") else ()
    sentence = refused(*command.split(), *more)

    assert "'x' is a file: name a model folder or a" in sentence


def test_model_without_a_hub(refused):
    """Its licence would have to be accepted, too; without an answer nobody knows."""
    sentence = refused("run", "--model", "llama2-7b", "--results", "r")

    assert "meta-llama/Llama-2-7b-hf" in sentence
    assert all(way in sentence for way in ("connect", "--data-dir", "--model"))


def test_gated_model(refused, fake_hub):
    from huggingface_hub.errors import GatedRepoError

    fake_hub.error = GatedRepoError.__new__(GatedRepoError)
    sentence = refused("run", "--model", "llama2-7b", "--results", "r")

    assert all(
        way in sentence for way in ("huggingface.co/meta-llama/Llama-2-7b-hf", "licence", "HF_TOKEN", "local folder")
    )


def test_corpus_without_a_hub(refused):
    sentence = refused("run", "--set", "perplexity.data=wikitext2", "--results", "r")

    assert all(way in sentence for way in ("Salesforce/wikitext", "connect", "--data-dir", "wiki-mini"))


def test_unknown_record(refused, tmp_path):
    Store(tmp_path / "r")
    sentence = refused("show", "abcdef", "--results", "r")

    assert "'abcdef'" in sentence and "bench ls runs --results r lists them" in sentence


def test_unknown_format(refused, tmp_path):
    Store(tmp_path / "r")
    assert (
        "'xml'" in (sentence := refused("report", "--results", "r", "--format", "xml"))
        and "table, json, csv, md" in sentence
    )


def test_prune_overwrites_nothing(refused, tmp_path):
    (tmp_path / "o").mkdir()
    (tmp_path / "o/mine").write_text("mine")
    assert "'o'" in (sentence := refused("prune", "--method", "magnitude", "--out", "o")) and "empty" in sentence
    assert (tmp_path / "o/mine").read_text() == "mine"


@pytest.mark.parametrize("setting", [{"windows": 100_000}, {"seqlen": 10_000_000}], ids=str)
def test_more_text_than_there_is_fails_and_says_how_much_there_is(tmp_path, setting, monkeypatch):
    """Never a protocol whose name claims more windows than were measured, though nobody looked before."""
    monkeypatch.setattr(windows, "check_windows", lambda *_: None)
    runs.run_here(runs.small(tmp_path / "r", methods=("dense",), perplexity=setting))
    got = runs.records(tmp_path / "r")["dense", None, "perplexity"]

    assert got.status == "failed"
    (asked,) = setting.items()
    assert f"perplexity.{asked[0]}={asked[1]}" in got.reason
    assert "wiki-mini has " in got.reason


# Good paths


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A small run's results folder."""
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("done")
        runs.own_cache(root, patch)
        runs.run_here(runs.small(root / "r", methods=("magnitude", "wanda"), seeds=(0, 1)))
    return root / "r"


def test_json_rows_have_the_stable_columns(cli, done, tmp_path):
    shutil.copytree(done, tmp_path / "r")
    code, out, _ = cli(
        "run",
        "--methods",
        "magnitude,wanda",
        "--seeds",
        "0,1",
        "--measures",
        "perplexity,size",
        "--json",
        *runs.flags("r"),
    )
    rows = json.loads(out)

    assert code == 0
    assert all(list(r) == COLUMNS.split() for r in rows)
    assert {(r["method"], r["seed"]) for r in rows} == {
        ("dense", None),
        ("magnitude", None),
        ("wanda", 0),
        ("wanda", 1),
    }
    assert all(r["status"] == "ok" and r["value"] is not None for r in rows)


@pytest.mark.parametrize("format_", ["json", "csv", "md", "table"])
def test_report_in_every_format(cli, done, format_):
    code, out, _ = cli("report", "--results", done, "--format", format_)

    assert code == 0
    if format_ == "csv":
        read = pd.read_csv(io.StringIO(out), dtype={"seed": "string"})
        assert list(read.columns) == COLUMNS.split()
        assert set(read["seed"].dropna()) == {"0", "1"}
    elif format_ == "json":
        assert {"dense", "wanda"} <= {r["method"] for r in json.loads(out)}
    else:
        assert "wanda (2 seeds)" in out and "±" in out


METRICS = {"perplexity": "perplexity", "size": "sparsity"}
SIZE = {"measure": "size", "protocol": "weights"}


def cell(
    method="magnitude", seed=None, value=1.0, protocol="wiki-mini@128", status="ok", model="m", stderr=None, **more
):
    """A record made by hand, of perplexity unless more, which goes into its identity, says otherwise."""
    labels = {
        "model": model,
        "method": method,
        "pattern": "2:4",
        "quantizer": "none",
        "seed": seed,
        "protocol": protocol,
    }
    labels |= {
        "measure": "perplexity",
        "calibration": None,
        "targets": [["*"], []],
        "dtype": "float32",
        "device": "cpu",
    }
    labels |= more
    row = ReadingRow(metric=METRICS[labels["measure"]], value=value, unit="1", better="lower", stderr=stderr, n=4)
    return Record(
        key=digests.of(labels),
        identity=fake_records.identity_of(**labels),
        status=status,
        reason="" if status == "ok" else "OOM",
        readings=[row] if status == "ok" else [],
    )


def lines(records):
    (grid,) = table.text_tables(records)
    return [dict(zip(grid.headers, line, strict=True)) for line in grid.lines]


def test_seeds_are_mean_and_standard_deviation():
    (line,) = lines([cell("wanda", s, v) for s, v in enumerate((10.0, 11.0, 12.0))])

    assert line["method"] == "wanda (3 seeds)"
    assert line["perplexity wiki-mini@128"] == "11.0 ± 1.0"


def test_a_measure_that_failed_for_a_seed_leaves_no_average_in_any_of_its_columns():
    sizes = [cell("wanda", s, status=x, **SIZE) for s, x in enumerate(("ok", "failed", "ok"))]
    (line,) = lines(sizes)

    assert line["sparsity"] == "OOM (1 of 3 seeds)"


def test_a_reason_is_told_once_a_line():
    records = [cell(status="skipped"), cell(status="skipped", **SIZE), cell("wanda"), cell("wanda", **SIZE)]
    for record in records[:2]:
        record.reason = "no CUDA device"
    line = lines(records)[1]

    assert list(line.values())[2:] == ["skipped: no CUDA device", "skipped"]


def test_ragged_seeds_show_the_failure_and_no_average():
    (line,) = lines([cell("wanda", 0, 10.0), cell("wanda", 1, status="failed"), cell("wanda", 2, 12.0)])

    assert line["perplexity wiki-mini@128"].startswith("OOM")
    assert "11" not in line["perplexity wiki-mini@128"]


def test_missing_seeds_are_said():
    """A run was interrupted: sparsegpt lacks seeds that wanda has, and wanda's last one lacks a measure."""
    records = [cell("wanda", s, 10.0 + s, **kind) for s in range(3) for kind in ({}, SIZE)][:-1]
    records += [cell("sparsegpt", s, 5.0) for s in (0, 2)] + [cell("magnitude"), cell("other", 0, pattern="4:8")]

    got = {x["method"].split(" ")[0]: x for x in lines(records)}

    assert {x["method"] for x in got.values()} == {"wanda (3 seeds)", "sparsegpt (2 of 3 seeds)", "magnitude", "other"}
    assert got["wanda"]["perplexity wiki-mini@128"] == "11.0 ± 1.0"
    assert got["wanda"]["sparsity"] == "10.50 ± 0.71 (2 of 3 seeds)"


def test_protocols_never_share_a_column():
    line, other = lines([cell(value=5.0, protocol="wikitext2@2048"), cell("wanda", 0, 4.0, protocol="wikitext2@4096")])

    columns = ["perplexity wikitext2@2048", "perplexity wikitext2@4096"]
    assert {tuple(x[c] for c in columns) for x in (line, other)} == {("5", "–"), ("–", "4")}


def test_rows_measured_alike_stand_together_and_in_order():
    """Each set by its own column: dense first, then the best, failures last."""
    records = []
    for dtype, protocol in (("float32", "b@1"), ("bfloat16", "a@1")):
        known = {"protocol": protocol, "dtype": dtype}
        records += [cell("bad", value=4.0, **known), cell("fails", status="failed", **known)]
        records += [cell("good", value=3.0, **known), cell("dense", value=9.0, **known)]

    got = lines(records)

    assert [(x["dtype"], x["method"]) for x in got] == [
        (dtype, method) for dtype in ("bfloat16", "float32") for method in ("dense", "good", "bad", "fails")
    ]
    assert [x["perplexity a@1"] for x in got] == ["9", "3", "4", "OOM", "–", "–", "–", "–"]


def test_a_failure_is_shown_where_its_protocol_never_succeeded():
    got = lines([cell(value=5.0, protocol="wikitext2@2048"), cell(protocol="c4@2048", status="failed")])

    assert got == [
        {"method": "magnitude", "pattern": "2:4", "perplexity c4@2048": "OOM", "perplexity wikitext2@2048": "5"}
    ]


HOSTILE = ["=cmd|'/C calc'!A0", "<img src=x onerror=alert(1)>", "[red]x[/red]", "a | b `c` [d](javascript:e)"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_stays_text(cli, tmp_path, name):
    Store(tmp_path / "r").write(cell(model=name))
    outs = {f: cli("report", "--results", "r", "--format", f)[1] for f in ("csv", "md", "table", "json")}

    read = pd.read_csv(io.StringIO(outs["csv"]))["model"][0]
    assert read == ("'" + name if name.startswith("=") else name)
    assert not set("<[`") & set(outs["md"])
    (rule,) = [x for x in outs["md"].splitlines() if x.startswith("|--")]
    assert {x.count("|") for x in outs["md"].splitlines() if x.startswith("|")} == {rule.count("|")}
    assert name in outs["table"]
    assert json.loads(outs["json"])[0]["model"] == name


def test_prune_writes_a_folder_that_transformers_loads(cli, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    code, said, err = cli("prune", "--method", "magnitude", "--out", "o", "--device", "cpu")
    assert code == 0, err
    assert "50.0% of 28 linears zero" in said
    out = tmp_path / "o"

    model, loading = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(loading.values())
    assert AutoTokenizer.from_pretrained(out)("Two words.")["input_ids"]
    assert "magnitude" in (out / "README.md").read_text()
    folder = Folder(out)
    targets = find_targets(folder.config, folder.shapes())
    assert all(Pattern(2, 4).violations(model.get_submodule(t).weight) == 0 for t in targets)
    assert sorted(p.name for p in out.iterdir()) == sorted(
        ["README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    )


def test_cache_is_shown_collected_and_made_again(cli, cache, tmp_path):
    spec = runs.small(tmp_path / "r", measures=("size",))
    runs.run_here(spec)
    before = {k: r.same() for k, r in runs.records(spec.results).items()}
    _, out, _ = cli("cache", "info", "--json")
    assert {r["part"]: r["entries"] for r in json.loads(out)}["artifacts"] == 2

    code, said, _ = cli("cache", "gc")
    assert code == 0 and "MB freed" in said
    assert not list((cache / "artifacts").iterdir())
    assert list((cache / "data").iterdir()), "what was fetched stays"
    command = ["run", "--methods", "magnitude", "--measures", "size", *runs.flags("r")]
    assert "0 measurements run, 4 read" in cli(*command)[1]

    for record in runs.records(spec.results).values():
        if record.identity.measure == "size":
            Store(spec.results).path(record.key).unlink()
    runs.run_here(spec)
    assert {k: r.same() for k, r in runs.records(spec.results).items()} == before


@pytest.mark.parametrize("what", ["methods", "models", "data", "measures", "quantizers"])
def test_lists(cli, what):
    code, out, _ = cli("ls", what, "--json")

    assert code == 0
    assert len(json.loads(out)) > 0
    assert cli("ls", what)[0] == 0


def test_list_of_runs(cli, done):
    rows = json.loads(cli("ls", "runs", "--results", done, "--json")[1])

    assert {r["method"] for r in rows} == {"dense", "magnitude", "wanda"}


def test_doctor(cli, monkeypatch):
    monkeypatch.setattr("bench.cli.doctor._network", lambda: {"thing": "hub", "state": "ok", "detail": ""})
    code, out, _ = cli("doctor", "--json")
    states = {r["thing"]: r["state"] for r in json.loads(out)}

    assert code == 0
    assert states["model tiny"] == states["corpus wiki-mini"] == "ok"


def test_doctor_asks_no_network_where_the_hub_is_off(cli, monkeypatch):
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("the network was asked"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = {r["thing"]: r for r in json.loads(cli("doctor", "--json")[1])}

    assert (rows["hub"]["state"], rows["hub"]["detail"]) == ("off", "not asked, since $HF_HUB_OFFLINE is set")


def test_doctor_fails_where_a_folder_that_was_named_is_not_there(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("BENCH_DATA_DIR", str(tmp_path / "nowhere"))
    code, out, err = cli("doctor", "--json")

    assert code == 1
    assert {r["thing"]: r["state"] for r in json.loads(out)}["mirror"] == "missing"
    assert err == f"bench: mirror missing: {tmp_path / 'nowhere'}\n"


def test_set_wins_over_flags_and_flags_over_toml(cli, tmp_path):
    (tmp_path / "c.toml").write_text(
        'methods = "wanda"\npatterns = "1:4"\nmeasures = ["size"]\nseeds = [5]\n[calibration]\nsequences = 7\n'
    )
    _, out, _ = cli(
        "plan",
        "--config",
        "c.toml",
        "--methods",
        "wanda,magnitude",
        "--pattern",
        "2:8",
        "--set",
        "patterns=4:8",
        "--json",
    )
    rows = {r["method"]: r for r in json.loads(out)}

    assert set(rows) == {"dense", "wanda", "magnitude"}
    assert (rows["wanda"]["pattern"], rows["wanda"]["seed"], rows["wanda"]["tokens"]) == ("4:8", "5", 7 * 128)


def test_environment_names_a_mirror_for_the_api_too(tmp_path, monkeypatch):
    (tmp_path / "mirror").mkdir()
    monkeypatch.setenv("BENCH_DATA_DIR", "mirror")

    assert runs.small("r").data_dir == tmp_path / "mirror"


@pytest.mark.parametrize("command", [[sys.executable, "-m", "bench"], ["bench"], ["cast-bench"]], ids=" ".join)
def test_every_name_of_the_command(command):
    if command[0] != sys.executable:
        command = [str(Path(sys.executable).parent / command[0])]
        if not os.access(command[0], os.X_OK):
            pytest.skip("the scripts of this environment lie elsewhere")
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, check=False)

    assert done.returncode == 0
    assert "prune" in done.stdout
