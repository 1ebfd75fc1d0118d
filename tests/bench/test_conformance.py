"""The checks that a method's author runs: a method that keeps its word passes, and one that breaks it is told what."""

import json

import pytest

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
class Hooks(_Method):
    name: ClassVar[str] = "misnamed"

    def spoil(self, model, job, walk):
        model.register_forward_hook(lambda *_: None)
"""
BROKEN = {
    "touches": {"prunes its targets and nothing else": "model.norm.weight changed, and it is neither a target"},
    "draws": {"gives the same twice": "two runs with one seed differ in their notes"},
    "writes": {"leaves its job alone": "it wrote into its source folder"},
    "starts": {"leaves nothing running": "processes running: end them before"},
    "hooks": {
        "declares itself": "its class is named 'misnamed', and it is installed as 'hooks'",
        "leaves a model that trains": "it left a hook in the model",
    },
}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    names = {name: f"author:{name.capitalize()}" for name in ("good", *BROKEN)}
    return runs.distribution(tmp_path_factory.mktemp("author"), "author", SOURCE, methods=names)


@pytest.fixture(autouse=True)
def world(site, tmp_path, monkeypatch):
    yield from runs.world(site, tmp_path, monkeypatch)


def test_a_method_that_keeps_its_word(cli):
    code, out, err = cli("conformance", "good", "--json")

    assert code == 0, err
    assert {row["state"] for row in json.loads(out)} == {"ok"}


@pytest.mark.parametrize("name", BROKEN)
def test_a_method_that_breaks_it(name, cli):
    code, out, err = cli("conformance", name, "--json")
    failed = {row["check"]: row["detail"] for row in json.loads(out) if row["state"] == "failed"}

    assert code == 1
    assert failed.keys() == BROKEN[name].keys()
    assert all(words in failed[check] for check, words in BROKEN[name].items()), failed
    assert err == f"bench: {name} fails {len(failed)} of 8 checks\n"


def test_an_unknown_name_and_one_that_cannot_be_checked_here(cli):
    assert cli("conformance", "wnada")[0] == 2
    code, _, err = cli("conformance", "sparseml-magnitude")
    assert code == 2
    assert err == "bench: sparseml-magnitude cannot be checked here: it runs in an environment of its own\n"
