"""Keys: all that decides a number, and nothing else. And what may be asked without torch."""

import importlib.metadata
import json
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest.mock import Mock

import pytest
from safetensors.torch import load_file, save_file

from bench import api
from bench.catalog import code
from bench.inputs import tokenizer_facts
from bench.planning import model_inputs
from bench.planning.spec import Spec, assign
from bench.system import provenance
from bench.system.interpreter import OWN_PACKAGES
from helpers import models, runs
from methods.contract.errors import UserError
from methods.model.families import FAMILIES

pytestmark = pytest.mark.usefixtures("cache")


def keys(results="r", **changes):
    spec = runs.small(results, **({"methods": ("magnitude", "wanda", "sparsegpt")} | changes))
    return {(c.artifact.method, c.measure): c.key for c in api.plan(spec).measurements}


@cache
def usual():
    return keys()


def moved(**changes):
    """Return the methods and measures whose keys a change of the spec moves."""
    before, after = usual(), keys(**changes)
    assert before.keys() == after.keys()
    return {kind for kind in before if before[kind] != after[kind]}


CALIBRATED = {"wanda", "sparsegpt"}
ALL = {"dense", "magnitude", *CALIBRATED}


def test_same_spec_same_keys_whatever_the_results_folder():
    assert moved(results="elsewhere") == set()
    assert len(set(keys().values())) == len(keys()) == 12


@pytest.mark.parametrize(
    ("changes", "methods"),
    [
        ({"seeds": (1,)}, CALIBRATED),
        ({"calibration": {"sequences": 5}}, CALIBRATED),
        ({"calibration": {"sequences": 4, "seqlen": 64}}, CALIBRATED),
        ({"dtype": "bfloat16"}, ALL),
        ({"threads": 2}, ALL),
        ({"targets": {"exclude": ("*.mlp.*",)}}, ALL),
        ({"patterns": ("1:4",)}, ALL - {"dense"}),
    ],
    # The order of a set is not the same in every process.
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_key_moves_with_what_decides_the_weights(changes, methods):
    assert moved(**changes) == {kind for kind in usual() if kind[0] in methods}


@pytest.mark.parametrize(
    "setting",
    [{"windows": 5}, {"windows": 4, "seqlen": 64}, {"windows": 4, "batch": 2}, {}],
    ids=str,
)
def test_key_moves_with_the_settings_of_its_own_measure(setting):
    assert moved(perplexity=setting) == {(method, "perplexity") for method in ALL}


ALL_ITEMS = {"perplexity": {"windows": "all"}, "zeroshot": {"limit": "all"}}
SOME_ITEMS = {"perplexity": {"windows": 9, "seqlen": 64}, "zeroshot": {"limit": 7}}


@pytest.mark.parametrize(
    ("settings", "read"),
    [
        ({}, (256, 200, 307_200)),
        (ALL_ITEMS | {"training": {"recipe": "tiny"}}, (None, None, 1_228_800)),
        (SOME_ITEMS | {"training": {"tokens": 4096}}, (9, 7, 4096)),
        ({"perplexity": {"seqlen": 64}}, (512, 200, 307_200)),
    ],
)
def test_tiny_has_smaller_defaults_until_a_setting_says_otherwise(settings, read):
    spec = Spec(methods=("cast",), quantizers=("none",), results="r", threads=1, **settings)
    plan = api.plan(spec)
    config = {m.measure: m.config for m in plan.measurements}
    budgets = {m.artifact.training.tokens for m in plan.measurements if m.artifact.training}

    assert (config["perplexity"]["windows"], config["zeroshot"]["limit"], *budgets) == read


def test_the_size_of_the_cache_is_no_part_of_a_key():
    bounded = {"windows": 4, "dense_states_gb": 0.5}

    assert moved(perplexity=bounded) == set()
    planned = api.plan(runs.small("r", perplexity=bounded)).measurements
    options = [m.options["dense_states_gb"] for m in planned if m.measure == "perplexity"]
    assert set(options) == {0.5}


def test_key_moves_with_the_entry_of_the_models_family_alone(monkeypatch):
    """It is data, so no digest of code has it."""
    before = keys()
    monkeypatch.setitem(FAMILIES, "gemma2", replace(FAMILIES["gemma2"], positions="x"))
    assert keys() == before
    monkeypatch.setitem(FAMILIES, "llama", replace(FAMILIES["llama"], whole=()))

    assert set(before.values()).isdisjoint(keys().values())


@pytest.mark.parametrize(
    ("kind", "changes", "level", "formats"),
    [
        ("float32", {}, "avx2", ("float32", "")),
        ("float32", {"dtype": "bfloat16"}, "avx2", ("bfloat16", "")),
        ("bfloat16", {}, "avx2", ("bfloat16", "float32")),
        ("bfloat16", {}, "avx512_bf16", ("bfloat16", "")),
        ("bfloat16", {"arithmetic": "float32"}, "amx", ("bfloat16", "float32")),
        ("bfloat16", {"arithmetic": "dtype"}, "avx2", ("bfloat16", "")),
        ("float16", {}, "amx", ("float16", "float32")),
        ("float16", {"device": "cuda"}, "avx2", ("float16", "")),
        ("float16", {"device": "cuda", "methods": ("retrain",)}, "avx2", ("bfloat16", "")),
        ("float16", {"methods": ("retrain",)}, "avx2", ("float16", "float32")),
        ("float16", {"dtype": "float32", "arithmetic": "float32"}, "avx2", ("float32", "")),
    ],
)
def test_a_model_stays_in_its_format_and_a_slow_format_is_computed_in_float32(
    kind, changes, level, formats, tmp_path, monkeypatch
):
    monkeypatch.setattr(provenance, "instruction_set", lambda: level)
    folder = runs.store_as(runs.tiny(tmp_path / kind), kind)
    perplexity = {"data": "wiki-mini", "windows": 2, "seqlen": 16}
    spec = runs.small("r", models=(str(folder),), perplexity=perplexity, **changes)

    for m in api.plan(spec).measurements:
        assert (m.artifact.dtype, m.artifact.arithmetic) == formats
        assert (m.identity.dtype, m.identity.arithmetic) == formats
        assert m.key_inputs().get("arithmetic", "") == formats[1]
        assert m.identity.labels()["dtype"] == ", computed in ".join(filter(None, formats))


def test_all_experts_is_part_of_the_key_of_a_mixture_alone(tmp_path):
    def made(family, **more):
        calibration = {"sequences": 2, "seqlen": 16} | more
        perplexity = {"data": "wiki-mini", "windows": 2, "seqlen": 16}
        settings = {"methods": ("wanda",), "calibration": calibration, "perplexity": perplexity}
        planned = api.plan(runs.small("r", models=(str(tmp_path / family),), **settings))
        wanda = [m for m in planned.measurements if m.artifact.method == "wanda"]
        return {m.key: m.identity.calibration.label for m in wanda}

    for family in ("llama", "mixtral"):
        models.random_folder(family, tmp_path / family)
    assert made("llama") == made("llama", all_experts=True)
    one, other = made("mixtral"), made("mixtral", all_experts=True)
    assert set(one).isdisjoint(other) and set(one.values()) == {"wiki-mini@16x2"}
    assert set(other.values()) == {"wiki-mini@16x2, all experts"}


def test_key_moves_with_a_methods_config():
    one, other = usual(), keys(methods=("sparsegpt:block=64",))

    assert set(one.values()) & set(other.values()) == {k for n, k in one.items() if n[0] == "dense"}


def test_key_moves_with_the_model_and_not_with_its_name(tmp_path):
    fixed = {
        "perplexity": {"windows": 4, "seqlen": 128, "data": "wiki-mini"},
        "calibration": {"sequences": 4, "seqlen": 128},
    }
    same, other = runs.tiny(tmp_path / "same"), runs.tiny(tmp_path / "other", rms_norm_eps=1e-5)

    assert keys(models=(str(same),), **fixed) == (wanted := keys(**fixed))
    assert set(keys(models=(str(other),), **fixed).values()).isdisjoint(wanted.values())


def test_a_model_under_two_names_is_refused(tmp_path):
    """They share keys, so rows of the second would be missing."""
    copy = str(runs.tiny(tmp_path / "copy"))
    with pytest.raises(UserError, match=r"tiny and .*copy are the same model: leave one out"):
        api.plan(runs.small("r", models=("tiny", copy)))


def test_a_glob_must_match_in_one_of_the_models(tmp_path):
    short = runs.tiny(tmp_path / "short", num_hidden_layers=3)
    tensors = load_file(short / "model.safetensors")
    kept = {name: t for name, t in tensors.items() if ".layers.3." not in name}
    save_file(kept, short / "model.safetensors", metadata={"format": "pt"})
    models = {"models": ("tiny", str(short)), "methods": ("magnitude",), "measures": ("size",)}
    assert api.plan(runs.small("r", **models, targets={"exclude": ("model.layers.3.*",)}))
    with pytest.raises(UserError, match=r"linear of tiny or .*short matches 'model.layers.9.\*'"):
        api.plan(runs.small("r", **models, targets={"exclude": ("model.layers.9.*",)}))


def test_key_moves_with_every_file_that_a_pruned_folder_takes_over(tmp_path):
    """Else the second of two models with the same weights would get the first one's chat
    template."""
    spec = runs.small("r", models=(str(model := runs.tiny(tmp_path / "model")),))
    artifacts = [set(api.plan(spec).artifacts())]
    for file in ("tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        (model / file).write_text('{"a": 1}')
        artifacts.append(set(api.plan(spec).artifacts()))

    assert len(set.union(*artifacts)) == sum(map(len, artifacts)) == 8


@pytest.mark.parametrize(
    ("module", "methods"),
    [
        ("bench.inputs.windows", {"wanda", "sparsegpt", "magnitude int4-gptq:embed=int8"}),
        ("bench.quantizers.gptq", {"magnitude int4-gptq:embed=int8"}),
        ("baselines.wanda", {"wanda"}),
        ("bench.measures.size", set()),
    ],
)
def test_key_moves_with_the_code_that_decides_the_weights(module, methods, monkeypatch):
    """The rule of drawing calibration text is a part of every stage that calibrates."""
    methods_of_plan = ("magnitude", "wanda", "sparsegpt")
    spec = runs.small("r", methods=methods_of_plan, quantizers=("none", "int4-gptq"))

    def artifacts():
        planned = [m.artifact for m in api.plan(spec).measurements]
        return {f"{a.method} {a.quantizer}".removesuffix(" none"): a.key for a in planned}

    def other_digest(*names):
        return digest(*names) + ("x" if module in names else "")

    before, digest = artifacts(), code.digest_source
    for user in (code, model_inputs):
        monkeypatch.setattr(user, "digest_source", other_digest)
    after = artifacts()

    watched = (*methods_of_plan, "magnitude int4-gptq:embed=int8")
    assert {name for name in watched if before[name] != after[name]} == methods


def test_without_randomness_once_whatever_the_seeds_and_dense_and_the_pattern_always():
    methods = ("magnitude", "wanda")
    spec = runs.small(
        "r", methods=methods, measures=("size",), patterns=("2:4", "1:4"), seeds=(0, 1)
    )
    rows = [("dense", "dense", None)]
    for pattern in ("2:4", "1:4"):
        rows += [("magnitude", pattern, None), *(("wanda", pattern, seed) for seed in (0, 1))]

    found = [(m.artifact, m.measure) for m in api.plan(spec).measurements]
    planned = {(a.method, a.pattern, a.seed, measure) for a, measure in found}
    assert planned == {(*row, measure) for row in rows for measure in ("size", "pattern")}
    assert len(found) == 14


@pytest.mark.parametrize(
    ("method", "quantizer", "stages"),
    [
        ("dense", "int4-awq:group=16", "awq:group=16 + int4-awq:group=16:embed=int8"),
        ("wanda:from=awq/grid=10", "int4-awq:group=16",
         "awq:grid=10:group=16 + wanda:from=awq/grid=10 + int4-awq:group=16:embed=int8"),
        ("awq:bits=4:group=16", "int4-awq:group=16",
         "awq:bits=4:group=16 + int4-awq:group=16:embed=int8"),
        ("recon", "int4-awq", "awq + sparsegpt + recon + int4-awq:embed=int8"),
        ("wanda:from=depth/drop=1", "w8a8-smooth",
         "depth:drop=1 + smooth + wanda:from=depth/drop=1 + w8a8-smooth:embed=int8"),
    ],
)  # fmt: skip
def test_a_quantizer_named_with_a_transform_comes_after_it(method, quantizer, stages):
    spec = runs.small("r", methods=(method,), quantizers=("none", quantizer), measures=("size",))
    chains = [one[0].artifact.stages for one in api.plan(spec).artifacts().values()]
    made = [" + ".join(stage.label for stage in chain) for chain in chains]

    assert stages in made and not any(transform in made[0] for transform in ("awq", "smooth"))


@pytest.mark.parametrize(
    ("setting", "way_out"),
    [("group=32", "use int4-awq:group=32"), ("bits=3", "use a quantizer of 3 bits")],
)
def test_a_typed_transform_with_other_settings_than_the_quantizer_is_refused(setting, way_out):
    spec = runs.small("r", methods=(f"wanda:from=awq/{setting}",), quantizers=("int4-awq",))
    name = setting.partition("=")[0]
    said = f"awq:{setting} and int4-awq:embed=int8 differ in {name}: {way_out}, or leave the {name}"
    with pytest.raises(UserError, match=said):
        api.plan(spec)


def test_the_transform_of_a_quantizer_is_checked_as_any_method():
    spec = runs.small(
        "r", methods=("dense",), quantizers=("int4-awq",), calibration={"processes": 2}
    )
    with pytest.raises(UserError, match="awq calibrates in one process"):
        api.plan(spec)


@pytest.mark.parametrize(
    ("family", "method", "why"),
    [
        ("gemma2", "rotate", "cannot rotate the residual stream of gemma2, .* use residual=false"),
        ("gemma2", "rotate:residual=false", None),
        ("mixtral", "awq", "awq does not know the architecture mixtral"),
    ],
)
def test_a_transform_that_the_family_does_not_take_is_refused_before_anything_is_loaded(
    family, method, why, tmp_path
):
    folder = str(models.random_folder(family, tmp_path / "model"))
    settings = {
        "perplexity": {"data": "wiki-mini", "windows": 2, "seqlen": 16},
        "calibration": {"sequences": 2, "seqlen": 16},
    }
    with pytest.raises(UserError, match=why) if why else nullcontext():
        assert api.plan(runs.small("r", models=(folder,), methods=(method,), **settings))


@pytest.mark.parametrize(
    ("section", "typed", "said"),
    [
        ("methods", ("sparsegpt:damping=0.001:block=64", "sparsegpt:block=64:damping=1e-3"), None),
        ("methods", ("retrain", "retrain:from=sparsegpt/damping=0.01"), None),
        ("methods", ("retrain:from=wanda", "retrain:from=wanda:lr=0.0045"), "0.0045 seed 0"),
        ("quantizers", ("int4-gptq", "int4-gptq:damping=0.01"), None),
    ],
)
def test_what_is_typed_in_two_ways_is_one(section, typed, said):
    ending = said or " and ".join(typed)
    with pytest.raises(UserError, match=f"{ending} are the same .*: leave one out"):
        api.plan(runs.small("r", **{section: typed}))


def test_a_folder_with_a_field_may_have_plain_text_beside_it(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"body": "word " * 4000}) + "\n")
    (tmp_path / "README.txt").write_text("about")
    assert api.plan(runs.small("r", perplexity={"data": f"{tmp_path}:body", "windows": 2}))


def test_a_typed_default_is_another_method_where_a_recipe_sets_the_field():
    assert api.plan(runs.small("r", methods=("cast", "cast:beta1=0.9"), measures=("size",)))


@pytest.mark.parametrize("measures", [("perplexity",), ("continuation",), ("zeroshot",), ("size",)])
@pytest.mark.parametrize("method", ["magnitude", "wanda", "dense-ft"])
def test_what_reads_text_is_refused_for_a_model_without_a_tokenizer(
    measures, method, make, keep_as, tmp_path
):
    folder = keep_as(make("llama"), tmp_path / "model")
    settings = {
        "perplexity": {"data": "wiki-mini", "seqlen": 16},
        "calibration": {"sequences": 2, "seqlen": 16},
        "training": {"tokens": 128, "batch": 2, "seqlen": 16},
    }
    asked = {"models": (str(folder),), "methods": (method,), "measures": measures}
    spec = runs.small("r", **asked, **settings)
    reads = measures != ("size",) or method != "magnitude"
    refusal = pytest.raises(UserError, match=rf"{folder} has no tokenizer \(tokenizer.json\)")
    with refusal if reads else nullcontext():
        assert api.plan(spec).measurements


@pytest.mark.parametrize("text", ["2026-10-05", "2026-10-05T10:00:00Z", "10:00:00"])
def test_a_date_is_text(text):
    assign(values := {}, f"results={text}")

    assert values == {"results": text}


def test_nobody_else_provides_our_packages():
    """A distribution with a package of the same name would be imported in our place, or we in
    its."""
    provided = importlib.metadata.packages_distributions()

    for name in OWN_PACKAGES:
        assert set(provided.get(name, ["cast-bench"])) == {"cast-bench"}, name


@pytest.mark.parametrize(
    ("method", "why"),
    [
        ("maskllm:from=depth", "maskllm needs for each block .*, and depth changes them"),
        ("maskllm:from=width/heads=0:file=masks.npz", "width:heads=0 changes them"),
        ("recon:from=depth+permute+wanda", "put permute first, depth:from=permute"),
        ("retrain:from=width/heads=0+rotate+wanda:hidden=1", "put rotate first, width:from=rotate"),
        ("recon:from=permute+depth+wanda", None),
        ("recon:from=depth+permute/residual=false+wanda", None),
        ("recon:from=depth+awq+wanda", None),
    ],
)
def test_a_method_that_needs_the_dense_model_in_the_same_basis_follows_no_other(method, why):
    spec = runs.small("r", methods=(method,), training={"tokens": 128, "batch": 2, "seqlen": 32})
    with pytest.raises(UserError, match=why) if why else nullcontext():
        assert api.plan(spec).measurements


@pytest.mark.parts("folders")
def test_a_plan_reads_a_model_folder_once(tmp_path, monkeypatch):
    folder = runs.tiny(tmp_path / "model")
    many = {"methods": ("magnitude", "rotate", "retrain:from=wanda", f"folder:path={folder}"),
            "patterns": ("2:4", "50%"), "quantizers": ("none", "int8", "int4-gptq"),
            "measures": ("perplexity", "continuation", "size"), "seeds": (0, 1)}  # fmt: skip
    spec = runs.small(tmp_path / "r", models=(str(folder),), **many)
    # The cache now knows the digests of the files, and the pattern of the model made elsewhere.
    # This process knows the tokenizer.
    assert len(api.plan(spec).measurements) > 50
    opened, really_open = Counter(), Path.open

    def count_opened(path, *args, **options):
        opened[path.name] += path.parent == folder
        return really_open(path, *args, **options)

    ask = Mock(wraps=tokenizer_facts.ask)
    monkeypatch.setattr(tokenizer_facts, "ask", ask)
    monkeypatch.setattr(Path, "open", count_opened)
    api.plan(spec)

    read = ("config.json", "model.safetensors", "tokenizer_config.json")
    assert [opened[name] for name in read] == [1, 1, 1]
    ask.assert_not_called()


def test_the_dense_model_is_measured_unquantized_where_a_loss_is_shown():
    def quantizers(*measures):
        spec = runs.small("r", methods=("dense",), quantizers=("int8",), measures=measures)
        return [m.artifact.quantizer for m in api.plan(spec).measurements]

    assert "none" in quantizers("perplexity")
    assert "none" not in quantizers("size")
