"""Keys: all that decides a number, and nothing else. And what may be asked without torch."""

import importlib.metadata
import subprocess
import sys
from dataclasses import replace

import pytest

from bench import api
from bench.planning import model_inputs, resolve
from bench.planning.spec import Spec
from bench.system.interpreter import OWN_PACKAGES
from helpers import runs
from methods.families import FAMILIES


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    return runs.own_cache(tmp_path, monkeypatch)


def keys(results="r", **changes):
    """Key by method and measure."""
    spec = runs.small(results, **({"methods": ("magnitude", "wanda", "sparsegpt")} | changes))
    return {(c.artifact.method, c.measure): c.key for c in api.plan(spec).measurements}


def test_same_spec_same_keys():
    assert keys() == keys()
    assert len(set(keys().values())) == len(keys()) == 12


@pytest.mark.parametrize(
    ("changes", "moved"),
    [
        ({"seeds": (1,)}, {"wanda", "sparsegpt"}),
        ({"calibration": {"sequences": 5}}, {"wanda", "sparsegpt"}),
        ({"calibration": {"sequences": 4, "seqlen": 64}}, {"wanda", "sparsegpt"}),
        ({"dtype": "bfloat16"}, {"dense", "magnitude", "wanda", "sparsegpt"}),
        ({"threads": 2}, {"dense", "magnitude", "wanda", "sparsegpt"}),
        ({"targets": {"exclude": ("*.mlp.*",)}}, {"dense", "magnitude", "wanda", "sparsegpt"}),
        ({"patterns": ("1:4",)}, {"magnitude", "wanda", "sparsegpt"}),
    ],
    ids=lambda v: ",".join(sorted(v)),
)
def test_key_moves_with_what_decides_the_weights(changes, moved):
    before, after = keys(), keys(**changes)

    assert before.keys() == after.keys()
    assert {k[0] for k in before if before[k] != after[k]} == moved
    assert {k[0] for k in before if before[k] == after[k]} == {k[0] for k in before} - moved


@pytest.mark.parametrize(
    "setting", [{"windows": 5}, {"windows": 4, "seqlen": 64}, {"windows": 4, "batch": 2}, {}], ids=str
)
def test_key_moves_with_the_protocol_of_its_own_measure_alone(setting):
    before, after = keys(), keys(perplexity=setting)

    assert {k[1] for k in before if before[k] != after[k]} == {"perplexity"}
    assert all(before[k] != after[k] for k in before if k[1] == "perplexity")


@pytest.mark.parametrize(
    ("settings", "read"),
    [
        ({}, (256, 200, 307_200)),
        (
            {"perplexity": {"windows": "all"}, "zeroshot": {"limit": "all"}, "training": {"recipe": "tiny"}},
            (None, None, 1_228_800),
        ),
        (
            {"perplexity": {"windows": 9, "seqlen": 64}, "zeroshot": {"limit": 7}, "training": {"tokens": 4096}},
            (9, 7, 4096),
        ),
        ({"perplexity": {"seqlen": 64}}, (512, 200, 307_200)),
    ],
)
def test_tiny_has_smaller_defaults_until_a_setting_says_otherwise(settings, read):
    plan = api.plan(Spec(methods=("cast",), quantizers=("none",), results="r", threads=1, **settings))
    config = {m.measure: m.config for m in plan.measurements}
    budgets = {m.artifact.training.tokens for m in plan.measurements if m.artifact.training}

    assert (config["perplexity"]["windows"], config["zeroshot"]["limit"], *budgets) == read


def test_what_the_cache_may_keep_is_no_part_of_a_key():
    plain, bounded = ({"windows": 4} | more for more in ({}, {"dense_states_gb": 0.5}))

    assert keys(perplexity=plain) == keys(perplexity=bounded)
    spec = runs.small("r", perplexity=bounded)
    assert {m.options["dense_states_gb"] for m in api.plan(spec).measurements if m.measure == "perplexity"} == {0.5}


def test_key_moves_with_the_entry_of_the_models_family_alone(monkeypatch):
    """It is data, so no digest of code has it."""
    before = keys()
    monkeypatch.setitem(FAMILIES, "gemma2", replace(FAMILIES["gemma2"], positions="x"))
    assert keys() == before
    monkeypatch.setitem(FAMILIES, "llama", replace(FAMILIES["llama"], whole=()))

    assert set(before.values()).isdisjoint(keys().values())


def test_all_experts_is_part_of_the_key_of_a_mixture_alone(tmp_path, make, keep_as):
    for name, family in (("dense", "llama"), ("mixture", "mixtral")):
        keep_as(make(family), tmp_path / name)
    plain, every = ({"sequences": 2, "seqlen": 16} | more for more in ({}, {"all_experts": True}))
    changes = {"methods": ("wanda",), "perplexity": {"data": "wiki-mini", "windows": 2, "seqlen": 16}}

    def made(name, calibration):
        spec = runs.small("r", models=(str(tmp_path / name),), calibration=calibration, **changes)
        return {m.key: m.identity.calibration for m in api.plan(spec).measurements if m.artifact.method == "wanda"}

    assert made("dense", plain) == made("dense", every)
    one, other = made("mixture", plain), made("mixture", every)
    assert set(one).isdisjoint(other)
    assert {c.label for c in one.values()} == {"wiki-mini@16x2"}
    assert {c.label for c in other.values()} == {"wiki-mini@16x2, all experts"}
    assert {"all_experts" in c.model_dump() for c in one.values()} == {False}
    assert {"all_experts" in c.model_dump() for c in other.values()} == {True}


def test_key_moves_with_a_methods_config():
    one, other = (keys(methods=(m,)) for m in ("sparsegpt", "sparsegpt:block=64"))

    assert set(one.values()) & set(other.values()) == {k for n, k in one.items() if n[0] == "dense"}


def test_key_moves_with_the_model_and_not_with_its_name(tmp_path):
    """Two models under one name never share a record; one model under two names does."""
    fixed = {
        "perplexity": {"windows": 4, "seqlen": 128, "data": "wiki-mini"},
        "calibration": {"sequences": 4, "seqlen": 128},
    }
    same = str(runs.tiny(tmp_path / "same"))
    assert keys(models=(same,), **fixed) == keys(**fixed)

    other = str(runs.tiny(tmp_path / "other", rms_norm_eps=1e-5))
    assert not set(keys(models=(other,), **fixed).values()) & set(keys(**fixed).values())


@pytest.mark.parametrize("file", ["tokenizer_config.json", "chat_template.jinja", "generation_config.json"])
def test_key_moves_with_every_file_that_a_pruned_folder_takes_over(file, tmp_path):
    """Else the second of two models with the same weights was given the first one's chat template."""
    models = [runs.tiny(tmp_path / name) for name in ("one", "other")]
    for model, content in zip(models, ("{}", '{"a": 1}'), strict=True):
        (model / file).write_text(content)

    artifacts = [{m.artifact.key for m in api.plan(runs.small("r", models=(str(m),))).measurements} for m in models]

    assert not artifacts[0] & artifacts[1]


@pytest.mark.parametrize(
    ("module", "moved"),
    [
        (
            "bench.inputs.windows",
            {"wanda", "sparsegpt", "sparsegpt int4-gptq", "dense int4-gptq", "magnitude int4-gptq", "wanda int4-gptq"},
        ),
        ("bench.quantizers.gptq", {"sparsegpt int4-gptq", "dense int4-gptq", "magnitude int4-gptq", "wanda int4-gptq"}),
        ("baselines.wanda", {"wanda", "wanda int4-gptq"}),
        ("bench.measures.size", set()),
    ],
)
def test_key_moves_with_the_code_that_decides_the_weights(module, moved, monkeypatch):
    """Crops are drawn for methods and quantizers that calibrate, so their rule is part of what they are."""

    def artifacts():
        spec = runs.small("r", methods=("magnitude", "wanda", "sparsegpt"), quantizers=("none", "int4-gptq"))
        planned = [c.artifact for c in api.plan(spec).measurements]
        return {a.method + ("" if a.quantizer == "none" else f" {a.quantizer}"): a.key for a in planned}

    before = artifacts()
    digest = resolve.digest_source
    for user in (resolve, model_inputs):
        monkeypatch.setattr(user, "digest_source", lambda *names: digest(*names) + ("x" if module in names else ""))

    after = artifacts()

    assert {name for name in before if before[name] != after[name]} == moved


def test_key_knows_neither_results_nor_places():
    assert keys() == keys(results="elsewhere")


def test_without_randomness_once_whatever_the_seeds():
    measurements = api.plan(runs.small("r", methods=("magnitude", "wanda"), seeds=(0, 1, 2))).measurements
    seeds = {
        m: [c.artifact.seed for c in measurements if c.artifact.method == m and c.measure == "size"]
        for m in ("dense", "magnitude", "wanda")
    }

    assert seeds == {"dense": [None], "magnitude": [None], "wanda": [0, 1, 2]}


def test_dense_and_the_pattern_are_always_there():
    measurements = api.plan(
        runs.small("r", methods=("magnitude",), measures=("size",), patterns=("2:4", "1:4"))
    ).measurements

    assert [(c.artifact.method, c.artifact.pattern, c.measure) for c in measurements] == [
        (m, p, measure)
        for m, p in (("dense", "dense"), ("magnitude", "2:4"), ("magnitude", "1:4"))
        for measure in ("size", "pattern")
    ]


def without_torch(*args):
    code = f"""
import sys
from bench.cli import main
sys.argv = ["bench", *{list(map(str, args))!r}]
try:
    main.main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {{"torch", "transformers", "datasets", "lm_eval"}} & set(sys.modules)
assert not heavy, heavy
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


LIGHT = [("--help",), *(("ls", what) for what in ("methods", "measures", "quantizers", "models", "data", "tasks"))]


@pytest.mark.parametrize("args", LIGHT, ids=" ".join)
def test_lists_import_no_torch(args):
    done = without_torch(*args)

    assert done.returncode == 0, done.stderr


def test_plan_imports_no_torch(tmp_path):
    """The default tasks and those of the sets need no lm-eval either."""
    asked = ("--tasks", "maskllm7,wiki_lastword", "--quant", "none,int8,int4-gptq")
    done = without_torch("plan", *asked, *runs.flags(tmp_path / "r", None))

    assert done.returncode == 0, done.stderr


def test_nobody_else_provides_our_packages():
    """A distribution with a package of the same name would be imported in our place, or we in its."""
    provided = importlib.metadata.packages_distributions()

    for name in OWN_PACKAGES:
        assert set(provided.get(name, ["cast-bench"])) == {"cast-bench"}, name
