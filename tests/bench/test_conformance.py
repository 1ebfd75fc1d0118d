"""The checks that a method's author runs."""

import json

import pytest

from bench.conformance import checks
from bench.conformance.subject import sample
from helpers import runs

SOURCE = """
import subprocess
from dataclasses import dataclass
from typing import ClassVar

from methods import Needs, Walk

DRAWN = []


class _Method:
    needs: ClassVar[Needs] = Needs.NOTHING

    def apply(self, model, job):
        walk = Walk(model, job)
        for visit in walk:
            visit.prune(job.pattern.keep(visit.weight.abs()))
        return self.spoil(model, job, walk) or walk.outcome()

    def spoil(self, model, job, walk):
        pass


@dataclass(frozen=True)
class Good(_Method):
    name: ClassVar[str] = "good"


@dataclass(frozen=True)
class Touches(_Method):
    name: ClassVar[str] = "touches"

    def spoil(self, model, job, walk):
        model.model.norm.weight += 1


@dataclass(frozen=True)
class Draws(_Method):
    name: ClassVar[str] = "draws"

    def spoil(self, model, job, walk):
        DRAWN.append(1)
        return walk.outcome(drawn=len(DRAWN))


@dataclass(frozen=True)
class Writes(_Method):
    name: ClassVar[str] = "writes"

    def spoil(self, model, job, walk):
        (job.source / "notes.txt").write_text("mine")


@dataclass(frozen=True)
class Starts(_Method):
    name: ClassVar[str] = "starts"

    def spoil(self, model, job, walk):
        subprocess.Popen(["sleep", "600"])


@dataclass(frozen=True)
class Casts(_Method):
    name: ClassVar[str] = "casts"

    def spoil(self, model, job, walk):
        model.model.norm.double()


@dataclass(frozen=True)
class Notes(_Method):
    name: ClassVar[str] = "notes"

    def spoil(self, model, job, walk):
        return walk.outcome(loss=float("nan"))


@dataclass(frozen=True)
class Hooks(_Method):
    name: ClassVar[str] = "misnamed"

    def spoil(self, model, job, walk):
        model.register_forward_hook(lambda *_: None)
"""
BROKEN = {
    "touches": (checks.prunes_its_targets_and_nothing_else, "model.norm.weight changed, and it is neither a target"),
    "draws": (checks.gives_the_same_twice, "two runs with one seed differ in their notes"),
    "writes": (checks.leaves_its_job_alone, "it wrote into its source folder"),
    "casts": (checks.keeps_the_dtype, "model.norm.weight became torch.float64 in a model of torch.float32"),
    "notes": (checks.notes_are_json, "its notes are not a JSON object without NaN"),
    "starts": (checks.leaves_nothing_running, "processes running: end them before"),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    names = {name: f"author:{name.capitalize()}" for name in ("good", "hooks", *BROKEN)}
    return runs.distribution(tmp_path_factory.mktemp("author"), "author", SOURCE, methods=names)


@pytest.fixture(autouse=True)
def world(site, tmp_path, monkeypatch):
    yield from runs.world(site, tmp_path, monkeypatch)


def test_a_method_that_conforms(cli):
    code, out, err = cli("conformance", "good", "--json")
    rows = json.loads(out)

    assert code == 0, err
    assert [row["check"] for row in rows] == [checks.describe(check) for check in checks.CHECKS]
    assert {row["state"] for row in rows} == {"ok"}


def test_a_method_that_does_not(cli):
    code, out, err = cli("conformance", "hooks", "--json")
    failed = {row["check"]: row["detail"] for row in json.loads(out) if row["state"] == "failed"}

    assert code == 1
    assert failed == {
        "declares itself": "its class is named 'misnamed', and it is installed as 'hooks'",
        "leaves a model that trains": "it left a hook in the model",
    }
    assert err == "bench: hooks fails 2 of 8 checks\n"


@pytest.mark.parametrize("name", BROKEN)
def test_each_check_finds_what_it_looks_for(name):
    check, sentence = BROKEN[name]

    with sample(name) as subject, pytest.raises(checks.NotConformant, match=sentence):
        check(subject)


def test_an_unknown_name_and_one_that_cannot_be_checked_here(cli):
    assert cli("conformance", "wnada")[0] == 2
    code, _, err = cli("conformance", "sparseml-magnitude")
    assert code == 2
    assert err == "bench: sparseml-magnitude cannot be checked here: it runs in a separate environment\n"
