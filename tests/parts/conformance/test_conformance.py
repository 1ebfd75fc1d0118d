"""The checks that a method's author runs."""

import json

import pytest

from bench.parts.conformance import checks
from bench.parts.conformance.subject import sample
from helpers import plugins

ENDS = {
    "good": "pass",
    "hooks": "model.register_forward_hook(lambda *_: None)",
    "touches": "model.model.norm.weight += 1",
    "draws": "DRAWN.append(1)\nreturn walk.outcome(drawn=len(DRAWN))",
    "writes": '(job.source / "notes.txt").write_text("mine")',
    "starts": 'subprocess.Popen(["sleep", "600"])',
    "casts": "model.model.norm.double()",
    "notes": 'return walk.outcome(loss=float("nan"))',
    "fills": "for visit in Walk(model, job):\n    visit.weight.fill_(1)",
    "stores": (
        "for visit in Walk(model, job):\n    walk.stored[visit.name] = StoredWeight(FloatCodec(), "
        "{'values': -visit.weight})"
    ),
}
"""Statements that each method runs after it has pruned."""
BROKEN = {
    "touches": (checks.prunes_its_targets_and_nothing_else,
                "model.norm.weight changed, and it is neither a target"),
    "draws": (checks.gives_the_same_twice, "two runs with one seed differ in their notes"),
    "writes": (checks.leaves_its_job_alone, "it wrote into its source folder"),
    "casts": (checks.keeps_the_dtype,
              "model.norm.weight became torch.float64 in a model of torch.float32"),
    "fills": (checks.prunes_its_targets_and_nothing_else, "q_proj does not follow 2:4"),
    "notes": (checks.notes_are_json, "its notes are not a JSON object without NaN"),
    "stores": (checks.stores_its_weights, "q_proj give another weight than its model has"),
    "starts": (checks.leaves_nothing_running, "processes running: end them before"),
}  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    fields = {"hooks": 'name: ClassVar[str] = "misnamed"'}
    return plugins.install(tmp_path_factory.mktemp("author"), "author", ENDS, fields, "DRAWN = []")


pytestmark = pytest.mark.usefixtures("world")


def test_a_method_that_conforms(cli):
    code, out, err = cli("conformance", "good", "--json")
    rows = json.loads(out)

    assert code == 0, err
    found = [row["check"] for row in rows]
    assert found == [check.__name__.replace("_", " ") for check in checks.CHECKS]
    assert {row["state"] for row in rows} == {"ok"}


def test_a_method_that_does_not(cli):
    code, out, err = cli("conformance", "hooks", "--json")
    failed = {row["check"]: row["detail"] for row in json.loads(out) if row["state"] == "failed"}

    assert code == 1
    assert failed == {
        "declares itself": "its class is named 'misnamed', and it is installed as 'hooks'",
        "leaves a model that trains": "it left a hook in the model",
    }
    assert err == "bench: hooks fails 2 of 10 checks\n"


@pytest.mark.parametrize("name", BROKEN)
def test_each_check_finds_what_it_looks_for(name):
    check, sentence = BROKEN[name]

    with sample(name) as subject, pytest.raises(checks.NotConformant, match=sentence):
        check(subject)


def test_a_method_that_removes_experts_is_tried_on_a_mixture():
    with sample("router") as subject:
        assert subject.model.config.model_type == "mixtral"
        changed = subject.apply().changed
        assert changed == {f"model.layers.{i}.mlp.gate.weight" for i in range(4)}
        # It looks for changes that are not declared.
        checks.prunes_its_targets_and_nothing_else(subject)
