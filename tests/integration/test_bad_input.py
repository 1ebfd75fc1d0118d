"""Bad input on the command line: one sentence, with the value and the way out."""

import shlex

import pytest
import torch

from bench.results.store import Store

pytestmark = pytest.mark.usefixtures("cache", "in_tmp_path")


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
    "method, a file": ("run --methods ./my.py", ["'./my.py' is a file", "cast_bench.methods", "docs/adding.md"]),
    "model": ("run --model tinny", ["unknown model 'tinny': did you mean tiny, or a hub id (owner/name) or a folder?"]),
    "model, extra comma": ("run --model tiny,", ["invalid models=tiny,: leave the extra comma out"]),
    "globs, extra comma": ("verify x --exclude *q,", ["invalid exclude=*q,: leave the extra comma out"]),
    "model that is not here": ("plan --model opt-125m", ["the plan of opt-125m needs its files", "bench pull opt-125m"]),
    "measure": ("run --measures perplexitty", ["'perplexitty'", "perplexity"]),
    "field, misspelt": ("run --methods sparsegpt:blok=1", ["sparsegpt", "'blok'", "block"]),
    "field's value": ("run --methods sparsegpt:block=abc", ["invalid sparsegpt:block=abc", "must be a whole number"]),
    "nothing to refine": ("run --methods dsnot", ["dsnot refines a pruned model", "dsnot:from=wanda"]),
    "field's choice": ("run --methods dsnot:part=mlp:from=wanda", ["invalid dsnot:part=mlp", "must be one of attention, all"]),
    "pattern": ("run --pattern 5:4", ["'5:4'", "2:4"]),
    "pattern that does not fit": ("run --pattern 2:3", ["2:3", "128", "use another pattern"]),
    "folder": ("run --model ./nowhere", ["'./nowhere'", "bench ls models"]),
    "toml, missing": ("run --config nowhere.toml", ["'nowhere.toml'", "No such file", "check the path"]),
    "set of tasks, to pull": ("pull wikitext2 wanda8", ["unknown model, corpus or task 'wanda8'", "wanda7"]),
    "set, no value": ("run --set perplexity.windows", ["'perplexity.windows'", "key=value"]),
    "set, unknown": ("run --set perplexity.windws=4", ["perplexity.windws", "perplexity.windows"]),
    "set, bad value": ("run --set perplexity.windows=many", ["perplexity.windows", "invalid perplexity.windows=many: must be a whole number"]),
    "no such split": ("run --set perplexity.data=c4 --set perplexity.split=validation", ["c4 has no validation split", "wiki-mini", "wikitext2"]),
    "not for evaluation": ("run --set perplexity.data=fineweb-edu", ["fineweb-edu has no evaluation split", "c4"]),
    "set, too small": ("run --set perplexity.windows=0", ["invalid perplexity.windows=0: must be a whole number from 1 to 10000000, or all"]),
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
    "dtype": ("run --dtype float8", ["dtype", "invalid dtype=float8: must be auto, float32, bfloat16 or float16", "bfloat16"]),
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
    "list": ("ls method", ["'method'", "methods"]),
    "results to read": ("report --results nowhere", ["'nowhere'", "--results"]),
    "tracker": ("run --log-to tensorboard", ["log_to", "mlflow", "wandb"]),
    "a setting of runs": ("prune --method wanda --out o --set jobs=2", ["--set jobs=2 has no effect", "leave it out"]),
    "prune takes one": ("prune --method wanda,magnitude --out o", ["one method"]),
    "quantizer": ("run --quant int4-gptk", ["unknown quantizer 'int4-gptk'", "int4-gptq"]),
    "group": ("plan --quant int4-rtn:group=100", ["int4-rtn:group=100", "128", "q_proj", "leave group= out"]),
    "group, too small": ("plan --quant int4-gptq:group=0", ["int4-gptq:group=0", "must be a whole number between 1 and"]),
    "quantizer's field": ("run --quant int8:group=64", ["int8", "'group'"]),
    "quantizer after a method": ("run --quant int8:from=magnitude", ["'magnitude'"]),
    "quantizer after another": ("plan --quant nf4:from=int8", ["nf4:from=int8", "leave from=int8 out"]),
    "tokens, a step": ("run --methods cast --set training.tokens=10", ["training.tokens=10 is less than one step of 32 x 128 tokens"]),
    "processes, batch": (
        "run --methods cast --set training.processes=3",
        ["training.batch=32 sequences cannot be divided among training.processes=3"],
    ),
    "time between checkpoints": ("run --set training.checkpoint_s=-1", ["invalid training.checkpoint_s=-1: must be at least 0"]),
    "endless checkpoints": ("run --set training.checkpoint_s=inf", ["invalid training.checkpoint_s=inf: must be a finite number"]),
    "nodes": ("prune --method cast --out o --set training.nodes=2 --set training.processes=2", ["training.nodes=2 is for bench run"]),
    "slurm without shards": ("plan --slurm x.sh", ["belong together"]),
    "slurm of a shard": ("plan --slurm x.sh --shards 3 --shard 1/2", ["--slurm divides the plan itself: leave --shard 1/2 out"]),
    "source": ("pull rte --from indx", ["unknown source 'indx': did you mean index"]),
    "source of tasks": ("pull rte tiny --from index", ["'tiny' is none of them"]),
    "kind of speed": ("speed --device cpu --model tiny --kinds bf17", ["unknown kind 'bf17': did you mean bf16?"]),
    "tokens of speed": ("speed --device cpu --model tiny --tokens 1,x", ["invalid tokens '1,x'"]),
    "speed beside others": ("run --measures speed --jobs 2 --device cpu", ["--jobs 2 would time an artifact while others compute"]),
    "search without a search": ("search run.toml", ["no table [search]"]),
    "search as a run": ("run --config search.toml", ["[search] is for bench search FILE"]),
    "toml, broken": ("run --config broken.toml", ["broken.toml", "is not TOML"]),
    "toml, unknown key": ("run --config misspelt.toml", ["'calibration.sequence'", "calibration.sequences"]),
    "format": ("report --results r --format xml", ["'xml'", "table, json, csv, md"]),
} | {
    f"{command}, results in a file": (
        f"{command} --results taken",
        ["'taken' is a file, not a folder: name another", "--results"],
    )
    for command in ("run", "report")
} | {
    f"{command}, a file": (f"{command} {more}", ["'taken' is a file: name a model folder or a"])
    for command, more in {
        "run": "--model taken",
        "verify": "taken",
        "pull": "taken",
        "finetune": "--artifact taken --data wiki-mini --out o",
    }.items()
}  # fmt: skip
FILES = {
    "run.toml": "models = ['tiny']\n",
    "search.toml": "[search]\ntrials = 4\n",
    "broken.toml": "methods = [",
    "misspelt.toml": "[calibration]\nsequence = 4\n",
    "taken": "",
}


@pytest.mark.parametrize(("args", "said"), BAD.values(), ids=BAD)
def test_bad_input_is_one_sentence(refused, tmp_path, args, said):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    Store(tmp_path / "r")
    sentence = refused(*shlex.split(args))

    assert [s for s in said if s not in sentence] == [], sentence


def test_no_cuda(refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "'cuda'" in (sentence := refused("run", "--device", "cuda")) and "--device cpu" in sentence


def test_prune_overwrites_nothing(refused, tmp_path):
    (tmp_path / "o").mkdir()
    (tmp_path / "o/mine").write_text("mine")
    assert "'o'" in (sentence := refused("prune", "--method", "magnitude", "--out", "o")) and "empty" in sentence
    assert (tmp_path / "o/mine").read_text() == "mine"
