"""Bad input on the command line: one sentence, with the value and the way out."""

import shlex

import pytest
import torch

from bench.results.store import Store
from helpers import runs


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
    "model": ("run --model tinny", ["unknown model 'tinny': did you mean tiny, or a hub id (owner/name) or a folder?"]),
    "model, extra comma": ("run --model tiny,", ["invalid models=tiny,: leave the extra comma out"]),
    "globs, extra comma": ("verify x --exclude *q,", ["invalid exclude=*q,: leave the extra comma out"]),
    "model that is not here": (
        "plan --model opt-125m",
        ["the plan of opt-125m needs its files", "bench pull opt-125m"],
    ),
    "measure": ("run --measures perplexitty", ["'perplexitty'", "perplexity"]),
    "field, misspelt": ("run --methods sparsegpt:blok=1", ["sparsegpt", "'blok'", "block"]),
    "field's value": ("run --methods sparsegpt:block=abc", ["invalid sparsegpt:block=abc", "must be a whole number"]),
    "nothing to refine": ("run --methods dsnot", ["dsnot refines a pruned model", "dsnot:from=wanda"]),
    "field's choice": (
        "run --methods dsnot:part=mlp:from=wanda",
        ["invalid dsnot:part=mlp", "must be one of attention, all"],
    ),
    "pattern": ("run --pattern 5:4", ["'5:4'", "2:4"]),
    "pattern that does not fit": ("run --pattern 2:3", ["2:3", "128", "use another pattern"]),
    "folder": ("run --model ./nowhere", ["'./nowhere'", "bench ls models"]),
    "toml, missing": ("run --config nowhere.toml", ["'nowhere.toml'", "No such file", "check the path"]),
    "set of tasks, to pull": ("pull wikitext2 wanda8", ["unknown model, corpus or task 'wanda8'", "wanda7"]),
    "set, no value": ("run --set perplexity.windows", ["'perplexity.windows'", "key=value"]),
    "set, unknown": ("run --set perplexity.windws=4", ["perplexity.windws", "perplexity.windows"]),
    "set, bad value": (
        "run --set perplexity.windows=many",
        ["perplexity.windows", "invalid perplexity.windows=many: must be a whole number"],
    ),
    "no such split": (
        "run --set perplexity.data=c4 --set perplexity.split=validation",
        ["c4 has no validation split", "wiki-mini", "wikitext2"],
    ),
    "not for evaluation": ("run --set perplexity.data=fineweb-edu", ["fineweb-edu has no evaluation split", "c4"]),
    "set, too small": (
        "run --set perplexity.windows=0",
        ["invalid perplexity.windows=0: must be a whole number from 1 to 10000000, or all"],
    ),
    "set, too large": ("run --set threads=4097", ["invalid threads=4097: must be at most 4096"]),
    "set, not above": ("run --max-memory 0", ["invalid max_memory=0.0: must be above 0"]),
    "set, no list": ("run --set targets.include=3", ["invalid targets.include=3: must be a list"]),
    "flag, no number": ("run --max-memory 4GB", ["invalid --max-memory=4GB: must be a number"]),
    "flag, out of range": ("plan --shards 0", ["invalid --shards=0: must be at least 1"]),
    "ray, without it": ("run --ray-address h:1", ["invalid ray_address=h:1", "add --executor ray, or leave it out"]),
    "command": ("rnu", ["no such command 'rnu'. Did you mean 'run'? See bench --help"]),
    "baselines": ("baseline ls --dir nowhere", ["--dir 'nowhere' is not a folder: name a folder of baselines"]),
    "merge, missing": ("merge nowhere --results m", ["'nowhere' is not there", "as in bench merge DIR"]),
    "merge, no results": ("merge . --results m", ["'.' is no results folder: it has no records/ in it"]),
    "dtype": (
        "run --dtype float8",
        ["dtype", "invalid dtype=float8: must be auto, float32, bfloat16 or float16", "bfloat16"],
    ),
    "device": ("run --device tpu", ["'tpu'", "cpu"]),
    "calibration too long": (
        "run --methods wanda --set calibration.seqlen=1000000",
        ["wiki-mini", "calibration.seqlen=1000000", "use a smaller one"],
    ),
    "more windows than there are": (
        "run --methods magnitude --set perplexity.windows=100000",
        ["wiki-mini has ", " windows of 128 tokens", "perplexity.windows=100000", "use a smaller number, or all"],
    ),
    "window longer than the corpus": (
        "plan --set perplexity.seqlen=10000000",
        ["wiki-mini has ", " tokens", "perplexity.seqlen=10000000", "use a smaller one"],
    ),
    "mirror": ("run --data-dir nowhere", ["'nowhere'", "create it"]),
    "zero-shot limit": ("run --set zeroshot.limit=0", ["invalid zeroshot.limit=0: must be a whole number from 1"]),
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


def test_no_cuda(refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "'cuda'" in (sentence := refused("run", "--device", "cuda")) and "--device cpu" in sentence


def test_pickle_is_refused(refused, tmp_path):
    folder = runs.tiny(tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    sentence = refused("run", "--model", folder)

    assert str(folder) in sentence and "pytorch_model.bin" in sentence and "convert them to safetensors" in sentence


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
