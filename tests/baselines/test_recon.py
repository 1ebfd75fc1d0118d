"""Block reconstruction against least squares. It never ends worse or moves a zero."""

import copy
from dataclasses import replace

import pytest
import torch

from baselines.dsnot import DSnoT
from baselines.recon import Recon
from bench.catalog import choice, registry
from helpers.trainings import pruned
from methods.contract.errors import UserError
from methods.contract.method import Compute, Prior
from methods.contract.pattern import Pattern
from methods.model.targets import dense_weight


@pytest.fixture
def sparse(llama, make_job, refining):
    """sparse(model) -> a pruned model, by default a llama, and the job that reconstructs it."""

    def make(model=llama):
        job = refining(model, make_job(model))
        return pruned(model, job), job

    return make


def test_error_falls_and_zeros_stay(sparse):
    model, job = sparse()
    start = copy.deepcopy(model)

    got = Recon(epochs=4, lr=1e-3).apply(model, job)

    errors = got.notes["block_error"]
    assert all(a < b for a, b in zip(errors["after"], errors["before"], strict=True))
    assert errors["after"][-1] < 0.95 * errors["before"][-1]
    for name in job.targets:
        old, new = (dense_weight(m.get_submodule(name)) for m in (start, got.model))
        assert torch.equal(new != 0, old != 0), name
        assert not torch.equal(new, old), name


@pytest.mark.full
@pytest.mark.parametrize("target", ["dense", "own-input"])
def test_every_family_comes_nearer_to_its_dense_model(family, make, sparse, target):
    dense = make(family)
    model, job = sparse(dense)

    def distance(m):
        return float((m(job.calibration).logits - dense(job.calibration).logits).square().mean())

    before = distance(model)
    got = Recon(epochs=6, lr=1e-3, target=target).apply(model, job)

    assert distance(got.model) < 0.9 * before


def test_a_step_too_large_is_undone(sparse):
    model, job = sparse()
    job = replace(job, targets=tuple(t for t in job.targets if ".layers.0." in t))
    start = copy.deepcopy(model.state_dict())
    got = Recon(epochs=1, lr=10.0).apply(model, job)
    assert got.notes["blocks_undone"] == 1
    assert got.notes["block_error"]["after"] == got.notes["block_error"]["before"]
    assert all(torch.equal(value, start[name]) for name, value in got.model.state_dict().items())


@pytest.mark.parametrize("norms", [True, False])
def test_norms_are_trained_where_asked(family, make, sparse, norms):
    dense = make(family)
    model, job = sparse(dense)
    job = replace(job, calibration=job.calibration[:2])
    start = copy.deepcopy(model.state_dict())

    got = Recon(epochs=1, norms=norms).apply(model, job)

    after = got.model.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, start[name])}
    weights = {f"{t}.weight" for t in job.targets}
    biases = {f"{t}.bias" for t in job.targets} & set(start)
    named_norms = {name for name in start if "norm" in name or ".ln_" in name}
    final = {name for name in named_norms if not any(f".{i}." in name for i in range(3))}
    assert named_norms - final
    assert moved <= weights | got.changed
    assert got.changed == biases | (named_norms - final if norms else set())


def test_bfloat16_trains_in_float32(sparse):
    """Steps below bfloat16's distance add up."""
    model, job = sparse()
    model = model.bfloat16()
    teacher = job.teacher().bfloat16()
    job = replace(job, compute=Compute(dtype=torch.bfloat16), teacher=lambda: teacher)
    start = copy.deepcopy(model.state_dict())

    got = Recon(epochs=8, lr=1e-4).apply(model, job)

    name = job.targets[-1] + ".weight"
    changed = (got.model.state_dict()[name] != start[name]).float().mean()
    assert changed > 0.2
    assert got.notes["block_error"]["after"][-1] < got.notes["block_error"]["before"][-1]


def test_no_negative_zero_where_the_dtype_underflows(sparse):
    """Some weights below zero are smaller than what float16 has."""
    model, job = sparse()
    for name in job.targets:
        model.get_submodule(name).weight.mul_(1e-6)
    model, teacher = model.half(), job.teacher().half()
    job = replace(job, compute=Compute(dtype=torch.float16), teacher=lambda: teacher)

    got = Recon(epochs=1, lr=3e-8).apply(model, job)

    assert got.notes["blocks_undone"] < 3
    for name in job.targets:
        weight = got.model.get_submodule(name).weight
        assert not weight[weight == 0].signbit().any(), name


def test_massive_tokens_are_counted_and_left_out(sparse):
    model, job = sparse()
    model.get_input_embeddings().weight[5] *= 1000
    teacher = copy.deepcopy(model)
    job = replace(job, teacher=lambda: teacher)
    count = int((job.calibration == 5).sum())

    got = Recon(epochs=1).apply(model, job)

    assert count > 0
    assert got.notes["tokens_left_out"] == [count] * 3


def test_says_how_far_it_is(sparse):
    model, job = sparse()
    seen = []

    class Seen:
        def advance(self, done, total, **metrics):
            seen.append((done, total, *metrics))

    Recon(epochs=2).apply(copy.deepcopy(model), replace(job, progress=Seen()))
    assert seen == [(i, 6, "loss") for i in range(1, 7)]

    seen.clear()
    Recon(epochs=0).apply(model, replace(job, progress=Seen()))
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("method", [Recon(), DSnoT()])
def test_without_a_prior_it_says_what_to_type(method, llama, job):
    with pytest.raises(UserError, match=f"{method.name}:from=wanda"):
        method.apply(llama, job)


@pytest.mark.parametrize("name", ["recon", "retrain", "dsnot", "lowrank"])
def test_a_start_that_is_not_pruned_is_refused(llama, make_job, refining, name):
    """A model after `rotate` or `dense-ft` is not pruned."""
    job = refining(llama, make_job(llama))
    every = {target: torch.ones_like(mask) for target, mask in job.prior.masks.items()}
    method = choice.build(registry.lookup("methods", name), name, {})
    job = replace(job, prior=replace(job.prior, masks=every))
    with pytest.raises(UserError, match=rf"^{name} needs a model that is pruned to 2:4"):
        method.apply(llama, job)


def test_a_dense_start_is_pruned_by_the_prior(llama, make_job, refining):
    job = refining(llama, make_job(llama))
    got = Recon(epochs=1).apply(llama, job)
    for name in job.targets:
        assert Pattern(2, 4).violations(dense_weight(got.model.get_submodule(name))) == 0
    assert isinstance(job.prior, Prior)
