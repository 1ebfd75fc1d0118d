"""Training recipes, and how a plan takes them up."""

import pytest

from bench.catalog.choice import build
from bench.catalog.entries import METHODS
from bench.execution.new_record import new_record
from bench.planning import recipes
from bench.planning.plan import make_plan
from bench.planning.spec import Spec
from bench.results import reproduce
from bench.results.record import parse
from bench.results.record_check import check_record
from helpers.runs import small
from methods.contract.errors import UserError

pytestmark = pytest.mark.usefixtures("cache")


def plan(tmp_path, **changes):
    measurements = make_plan(small(tmp_path / "r", **changes)).measurements
    return {c.artifact.method: c.artifact for c in measurements}


@pytest.mark.parametrize(
    ("parameters", "device", "name"),
    [
        (935_040, "cpu", "tiny"),
        (134.5e6, "cpu", "short-cpu"),
        (134.5e6, "cuda:0", "small"),
        (6.7e9, "cuda", "paper-7b"),
    ],
)
def test_goes_by_size_and_device(parameters, device, name):
    assert recipes.choose(int(parameters), device).name == name


def test_a_name_wins():
    assert recipes.choose(935_040, "cpu", "paper-7b").tokens == 7_864_320_000
    with pytest.raises(
        UserError, match=r"unknown training recipe 'paper-8b': did you mean paper-7b"
    ):
        recipes.choose(1, "cpu", "paper-8b")
    with pytest.raises(UserError, match="no training recipe for a model of 70 billion parameters"):
        recipes.choose(int(70e9), "cuda")


@pytest.mark.parametrize("name", recipes.recipes())
def test_every_recipe_makes_methods(name):
    recipe = recipes.recipes()[name]

    assert recipe.about and recipe.source
    assert recipe.tokens >= recipe.batch * recipe.seqlen
    for method, fields in recipe.methods.items():
        build(METHODS[method], method, fields)


def test_paper_recipe_is_the_papers():
    recipe = recipes.recipes()["paper-7b"]

    assert (recipe.batch, recipe.seqlen, recipe.tokens) == (256, 4096, 256 * 4096 * 7500)
    assert recipe.methods["cast"] == {"lr": 2e-5, "lambda_": 4e-7}


def test_recipe_below_settings_below_words(tmp_path):
    artifact = plan(
        tmp_path, methods=("cast:lr=0.5", "cast"), training={"tokens": 8192, "batch": 4}
    )

    recipe = recipes.recipes()["tiny"]
    for each in (artifact["cast"], artifact["cast:lr=0.5"]):
        assert (each.training.tokens, each.training.batch) == (8192, 4)
        assert each.training.seqlen == recipe.seqlen
    assert artifact["cast:lr=0.5"].stages[0].config == recipe.fields_of("cast") | {"lr": 0.5}
    assert artifact["cast"].stages[0].config == recipe.fields_of("cast")


def test_a_typed_rate_replaces_the_recipes_rate_in_any_unit(tmp_path):
    name = "cast:relative_lr=0.5"
    (stage,) = plan(tmp_path, methods=(name,))[name].stages
    fields = recipes.recipes()["tiny"].fields_of("cast")
    del fields["lr"]

    assert stage.config == fields | {"relative_lr": 0.5}


@pytest.mark.parametrize("name", recipes.recipes())
def test_every_method_of_a_recipe_ends_its_cosine_at_one_floor(name):
    recipe = recipes.recipes()[name]

    found = {recipe.fields_of(m)["final_lr_ratio"] for m, entry in METHODS.items() if entry.trains}
    assert found == {recipe.final_lr_ratio}
    assert "final_lr_ratio" not in recipe.fields_of("a-plug-in")


def test_only_who_trains_has_a_course(tmp_path):
    artifact = plan(tmp_path, methods=("wanda", "cast", "retrain"))

    assert artifact["wanda"].training is None and artifact["dense"].training is None
    assert artifact["cast"].training and artifact["cast"].calibration is None
    chain = artifact["sparsegpt + retrain"]
    assert chain.training and chain.calibration
    assert chain.up_to(1).training is None
    assert [s.name for s in chain.stages] == ["sparsegpt", "retrain"]


def test_a_budget_is_part_of_the_key(tmp_path):
    budgets = [{"tokens": tokens} for tokens in (8192, 16384)]
    one, two = (plan(tmp_path, methods=("cast",), training=each)["cast"] for each in budgets)

    assert one.key != two.key


@pytest.mark.parametrize(
    ("recipe", "label"),
    [({}, ""), ({"recipe": "tiny"}, ""), ({"recipe": "small-gpu"}, ", recipe small-gpu")],
    ids=str,
)
def test_a_recipe_that_is_not_for_the_models_size_is_named_and_made_again(tmp_path, recipe, label):
    """Without the name, two trainings would be one row."""
    training = {"tokens": 8192, "batch": 4, "seqlen": 128} | recipe
    spec = small(tmp_path / "r", methods=("cast",), training=training, measures=("size",))
    (one,) = (
        m
        for m in make_plan(spec).measurements
        if m.artifact.method == "cast" and m.measure == "size"
    )
    record = parse(new_record(one, status="failed", reason="x").to_json().encode(), "")
    again = make_plan(Spec(**reproduce.settings(record) | {"results": tmp_path}))

    assert one.identity.training.label == f"wiki-mini@128x4, 8,192 tokens{label}"
    found = [(m.key, m.identity) for m in again.measurements if m.key == one.key]
    assert found == [(one.key, one.identity)]
    assert ("training.recipe=small-gpu" in reproduce.command([record])) == bool(label)
    check_record(record, None)
