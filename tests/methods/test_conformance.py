"""What every method in the catalog owes its caller."""

import pytest
import torch

from bench.catalog.choice import build
from bench.catalog.entries import METHODS
from helpers import runs
from helpers.models import build as build_model
from helpers.models import sample
from methods.contract.info import Does
from methods.contract.method import Needs
from methods.model.targets import dense_weight

checks = pytest.importorskip("bench.parts.conformance.checks")
Subject = pytest.importorskip("bench.parts.conformance.subject").Subject
ENTRIES = {name: entry for name, entry in METHODS.items() if Does.IMPORTS not in entry.does}
NIGHTLY = ("keeps_its_function", "notes_are_json", "leaves_nothing_running")
"""Checks that other tests make daily: test_wiring, and the record of each run."""
DAILY = [check for check in checks.CHECKS[1:] if check.__name__ not in NIGHTLY]


@pytest.fixture
def subject(llama, make_job, refining, tmp_path):
    """subject(name, pattern) -> a method of the catalog, a random model and the job that it
    needs."""
    (tmp_path / "source").mkdir()

    def make(name, pattern="2:4"):
        method = build(ENTRIES[name], name, runs.QUICK.get(name, {}))
        pattern = "dense" if name == "dense" else pattern
        model = build_model("mixtral") if name == "experts" else llama
        job = make_job(model, pattern, source=tmp_path / "source", workdir=tmp_path)
        job = refining(model, job) if Needs.TEACHER in method.needs else job
        return Subject(name, ENTRIES[name], "methods", method, model, job)

    return make


@pytest.mark.parametrize("name", ENTRIES)
def test_declares_itself(name, subject):
    checks.declares_itself(subject(name))


@pytest.mark.parametrize(
    "check", sample(checks.CHECKS[1:], *DAILY), ids=lambda check: check.__name__
)
@pytest.mark.parametrize("name", runs.ONE_SHOT)
def test_one_shot_method(name, check, subject):
    check(subject(name))


@pytest.mark.parametrize("name", runs.PRUNERS)
def test_no_method_needs_to_know_of_pairs(name, subject):
    """It keeps two of the four pairs of every eight weights, whole."""
    made = subject(name, "pairs:4:8")
    model = made.apply().model
    for target in made.job.targets:
        pairs = dense_weight(model.get_submodule(target)).unflatten(1, (-1, 4, 2)) != 0
        whole = pairs.all(-1)
        assert torch.equal(whole, pairs.any(-1)) and bool((whole.sum(-1) == 2).all())
