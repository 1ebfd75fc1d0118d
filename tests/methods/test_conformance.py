"""What every method in the catalog owes its caller."""

import copy
import dataclasses
import json
from collections.abc import Mapping

import pytest
import torch

from bench.catalog import registry
from bench.catalog.choice import build
from bench.plan import method_cost
from helpers import runs
from methods.contract import Needs
from methods.targets import dense_weight

ENTRIES = {name: entry for name, entry in registry.entries("methods").items() if name in registry.METHODS}


@pytest.fixture(params=runs.ONE_SHOT)
def method(request):
    return build(ENTRIES[request.param], request.param, {})


@pytest.fixture
def pattern(method):
    return "dense" if method.name == "dense" else "2:4"


@pytest.fixture
def apply(refining):
    """apply(method, model, job) -> its outcome on a copy, beside a prior and a teacher where it asks for them."""

    def run(method, model, job):
        torch.manual_seed(job.seed)
        return method.apply(copy.deepcopy(model), refining(model, job) if Needs.TEACHER in method.needs else job)

    return run


@pytest.mark.parametrize("name", ENTRIES)
def test_entry_says_what_the_class_says(name):
    entry = ENTRIES[name]
    kind = registry.load(entry)

    assert kind.name == name
    assert isinstance(kind.needs, Needs)
    assert {flag.name.lower() for flag in kind.needs} == set(entry.needs)
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen
    assert not entry.broken
    assert entry.about
    assert bool(entry.environment) == (Needs.ISOLATED in kind.needs)


@pytest.mark.parametrize("name", ENTRIES)
def test_entry_says_where_it_is_from_and_what_it_costs(name):
    entry = ENTRIES[name]

    assert entry.paper
    assert (entry.paper == "none") == (entry.year is None)
    assert entry.cost is not None
    assert entry.trains == bool(entry.cost.training)
    assert ("calibration" in entry.needs) == bool(entry.cost.passes)
    assert method_cost.describe(entry)


@pytest.mark.parametrize("name", ENTRIES)
def test_hyperparameters_are_json(name):
    fields = dataclasses.asdict(build(ENTRIES[name], name, {}))

    assert json.loads(json.dumps(fields, allow_nan=False)) == fields


def test_prunes_its_targets_and_nothing_else(method, pattern, apply, make, make_job):
    """One linear of each kind is left out, so that a method cannot know its targets but from the job."""
    model = make("llama")
    job = make_job(model, pattern)
    job = dataclasses.replace(job, targets=job.targets[:-7])

    outcome = apply(method, model, job)

    before, after = model.state_dict(), outcome.model.state_dict()
    assert before.keys() == after.keys()
    weights = {t + ".weight" for t in job.targets}
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed - set(outcome.changed) == (set() if method.name == "dense" else weights)
    assert not weights & set(outcome.changed)
    for target in job.targets:
        assert job.pattern.violations(dense_weight(outcome.model.get_submodule(target))) == 0, target


def test_same_seed_same_model(method, pattern, apply, llama, make_job):
    job = make_job(llama, pattern)

    one, two = apply(method, llama, job), apply(method, llama, job)

    assert one.notes == two.notes
    for key, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, two.model.state_dict()[key]), key


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_stays(method, pattern, apply, dtype, llama, make_job):
    llama.to(dtype)

    outcome = apply(method, llama, make_job(llama, pattern))

    for key, tensor in outcome.model.state_dict().items():
        assert tensor.dtype == dtype, key
        assert tensor.isfinite().all(), key


def test_notes_are_json(method, pattern, apply, llama, make_job):
    notes = apply(method, llama, make_job(llama, pattern)).notes

    assert isinstance(notes, Mapping)
    assert json.loads(json.dumps(dict(notes), allow_nan=False)) == notes


def test_job_is_left_as_it_was(method, pattern, apply, llama, make_job):
    job = make_job(llama, pattern)
    tokens = job.calibration.clone()

    apply(method, llama, job)

    assert torch.equal(job.calibration, tokens)


def test_model_can_still_be_trained_and_run(method, pattern, apply, llama, make_job):
    """No hook, no stand-in for a block and no frozen graph is left behind."""
    job = make_job(llama, pattern)

    model = apply(method, llama, job).model

    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert [type(m) for m in model.modules()] == [type(m) for m in llama.modules()]
    model.requires_grad_(True)
    model(job.calibration, labels=job.calibration).loss.backward()
    assert all(p.grad is not None for p in model.parameters())
